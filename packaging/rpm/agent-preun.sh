# $1 is 0 when the package goes for good, and 1 in an upgrade.
if [ "$1" = 0 ]; then
  systemctl stop virt-reclaim-agent.service virt-reclaim-agent-worker.socket >/dev/null 2>&1 || :
fi

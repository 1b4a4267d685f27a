# udev starts the agent with its port. Where that is there already, and has no agent or an older one, it starts now.
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload >/dev/null 2>&1 || :
  if [ -e /dev/virtio-ports/org.virt_reclaim.agent.v1 ]; then
    udevadm control --reload || :
    udevadm trigger --settle --subsystem-match=virtio-ports || :
    systemctl restart virt-reclaim-agent.service >/dev/null 2>&1 || :
  fi
fi

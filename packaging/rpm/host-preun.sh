# $1 is 0 when the package goes for good, and 1 in an upgrade. A job under way ends at its next step; no timer starts another.
if [ "$1" = 0 ]; then
  for job in trim sparsify punch metrics; do
    systemctl --no-reload disable --now "virt-reclaim-$job.timer" >/dev/null 2>&1 || :
    systemctl stop "virt-reclaim-$job.service" >/dev/null 2>&1 || :
  done
fi

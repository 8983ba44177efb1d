#!/bin/sh
# Say plainly when the Python at hand is not enough, and which one would be.
#   tools/check_python.sh PYTHON
set -eu
enough='import sys, venv; sys.exit(sys.version_info < (3, 11))'

"$1" -c "$enough" 2>/dev/null && exit 0

if ! command -v "$1" >/dev/null 2>&1; then
  echo "error: no '$1' on PATH. Suanli needs Python 3.11 or newer with its venv module." >&2
elif "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "error: '$1' has no venv module. On Debian and Ubuntu: apt install python3-venv" >&2
else
  echo "error: '$1' is $("$1" --version 2>&1); Suanli needs Python 3.11 or newer." >&2
fi
for other in python3.14 python3.13 python3.12 python3.11; do
  if "$other" -c "$enough" 2>/dev/null; then
    echo "This one would do:  make PYTHON=$other ..." >&2
    break
  fi
done
exit 2

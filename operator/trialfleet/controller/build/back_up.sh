# Makes a dump of the database $PGDATABASE in $FOLDER, and removes all but the newest $KEEP.
# Dumps are named so that the newest comes last. Other files in the folder are left alone.
mkdir -p "$FOLDER"
cd "$FOLDER"
rm -f -- *.partial
new=$(date -u +%Y%m%dT%H%M%SZ).dump
trap 'rm -f -- "$new.partial"' EXIT
pg_dump --format=custom --lock-wait-timeout=60s --file="$new.partial"
# A database that is empty, or is another one, must not take the place of good dumps.
pg_restore --list "$new.partial" | grep 'TABLE DATA public trialfleet_storage ' >/dev/null || {
  echo "the database has no tables of Trialfleet; the dumps of before are kept" >&2
  exit 1
}
# The list is at a dump's begin: this reads it to its end.
pg_restore --file=/dev/null "$new.partial"
sync "$new.partial"
mv -- "$new.partial" "$new"
sync .
set -- [0-9]*T[0-9]*Z.dump
while [ $# -gt "$KEEP" ]; do
  rm -f -- "$1"
  shift
done
ls -l

# Restores the dump $FILE of $FOLDER, or the newest, into a database of another name, which takes the
# place of $PGDATABASE when it is complete. What was there before is kept as ..._replaced.
cd "$FOLDER"
if [ -z "${FILE:-}" ]; then
  for FILE in [0-9]*T[0-9]*Z.dump; do :; done
fi
pg_restore --list "$FILE" | grep 'TABLE DATA public trialfleet_storage ' >/dev/null || {
  echo "found no dump of a storage in $FOLDER/$FILE; the folder has:" >&2
  ls -l >&2
  exit 1
}
tries=0
until pg_isready --quiet --timeout=5; do
  tries=$((tries + 1))
  if [ "$tries" -ge 60 ]; then
    echo "PostgreSQL at $PGHOST does not answer" >&2
    exit 1
  fi
  sleep 2
done
echo "restoring $FILE"
new=${PGDATABASE}_restored
old=${PGDATABASE}_replaced

sql() {
  psql --no-psqlrc --quiet --output=/dev/null --set=ON_ERROR_STOP=1 "$@"
}

sql --dbname=postgres \
  --command="DROP DATABASE IF EXISTS \"$new\" WITH (FORCE)" \
  --command="CREATE DATABASE \"$new\" TEMPLATE template0"
pg_restore --exit-on-error --no-owner --dbname="$new" "$FILE"
sql --dbname="$new" --command=ANALYZE

# A database that is renamed must have no connections: proxies come back to the other one.
trap 'sql --dbname=postgres --command="ALTER DATABASE \"$PGDATABASE\" ALLOW_CONNECTIONS true"' EXIT
sql --dbname=postgres \
  --command="DROP DATABASE IF EXISTS \"$old\" WITH (FORCE)" \
  --command="ALTER DATABASE \"$PGDATABASE\" ALLOW_CONNECTIONS false" \
  --command="SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE datname = '$PGDATABASE'" \
  --command=BEGIN \
  --command="ALTER DATABASE \"$PGDATABASE\" RENAME TO \"$old\"" \
  --command="ALTER DATABASE \"$new\" RENAME TO \"$PGDATABASE\"" \
  --command=COMMIT
echo "restored; what was there before is the database $old"

"""On a real PostgreSQL: the role of the guards can use its schema and nothing else, and a backup comes back as documented."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from balancer import free_port
from harness import ROOT, count_failures, end

ROLE = ROOT / "deploy" / "postgres" / "role.sql"
PAGE = (ROOT / "docs" / "many-guards.md").read_text()
# With what a shell and SQL would take apart.
PASSWORD = "it's a \"password\" $HOME"


def programs():
    """The folder of the newest PostgreSQL, where Debian has it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return found[-1] if found else Path(shutil.which("initdb")).parent


class Postgres:
    """A server of its own, with a database `spendguard`, and the role of the guards in it."""

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        folder = Path(self.folder.name)
        # The server refuses to run as root.
        self.user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
        if self.user:
            shutil.chown(folder, "postgres", "postgres")
        (folder / "password").write_text("superuser")
        (folder / "password").chmod(0o644)
        self.port = str(free_port())
        arguments = ["--auth=scram-sha-256", "--username=postgres", f"--pwfile={folder}/password", "--no-sync"]
        self.run("initdb", f"--pgdata={folder}/data", *arguments)
        options = f"-p {self.port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self.run("pg_ctl", f"--pgdata={folder}/data", "--log", f"{folder}/log", "--wait", "--options", options, "start")
        self.run("createdb", "spendguard")
        done = self.run("psql", "--dbname", "spendguard", "--set", "ON_ERROR_STOP=1", "--file", str(ROLE), SPENDGUARD_DB_PASSWORD=PASSWORD)
        assert not re.search("warning|error", done, re.IGNORECASE), done
        return self

    def __exit__(self, *_):
        self.run("pg_ctl", f"--pgdata={self.folder.name}/data", "--mode=immediate", "stop")
        self.folder.cleanup()

    def run(self, program, *arguments, **environment):
        """Runs a program of PostgreSQL as the superuser; what it printed."""
        places = {"PGHOST": "127.0.0.1", "PGPORT": self.port, "PGUSER": "postgres", "PGPASSWORD": "superuser"}
        user = self.user if program in ("initdb", "pg_ctl") else []
        command = [*user, str(programs() / program), *arguments]
        # A server keeps its parent's output open.
        with tempfile.TemporaryFile("w+") as printed:
            done = subprocess.run(command, env=os.environ | places | environment, cwd=self.folder.name, stdout=printed, stderr=printed, timeout=60)
            printed.seek(0)
            text = printed.read()
        if done.returncode != 0:
            raise PermissionError(text)
        return text

    def guard(self, statement, database="spendguard", password=PASSWORD):
        """What a statement of a guard gives."""
        arguments = ["--no-psqlrc", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1", "--command", statement]
        return self.run("psql", "--dbname", database, *arguments, PGUSER="spendguard", PGPASSWORD=password).strip()


def a_guard_can_use_its_schema(postgres):
    assert postgres.guard("SHOW search_path") == "spendguard" and postgres.guard("SHOW synchronous_commit") == "on"
    postgres.guard("CREATE TABLE entry (id bigint) PARTITION BY RANGE (id); CREATE TABLE entry_1 PARTITION OF entry FOR VALUES FROM (0) TO (9)")
    postgres.guard("INSERT INTO entry VALUES (1); CREATE SEQUENCE ids; SELECT nextval('ids')")
    assert postgres.guard("SELECT schemaname FROM pg_tables WHERE tablename = 'entry'") == "spendguard"
    postgres.guard("BEGIN; SELECT * FROM entry FOR UPDATE SKIP LOCKED; COMMIT")
    postgres.guard("SELECT pg_advisory_lock(1); LISTEN rules; NOTIFY rules")


def and_nothing_else(postgres):
    postgres.run("psql", "--dbname", "spendguard", "--command", "CREATE TABLE public.other (id int); CREATE SCHEMA theirs; CREATE TABLE theirs.other (id int)")
    refused = [
        "CREATE TABLE public.mine (id int)",
        "SELECT * FROM public.other",
        "SELECT * FROM theirs.other",
        "CREATE SCHEMA mine",
        "CREATE TEMPORARY TABLE mine (id int)",
        "CREATE ROLE mine",
        "CREATE DATABASE mine",
        "ALTER ROLE spendguard SUPERUSER",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT pg_read_file('/etc/passwd')",
        "ALTER SYSTEM SET fsync = off",
    ]
    for statement in refused:
        try:
            postgres.guard(statement)
        except PermissionError as error:
            assert re.search("permission denied|must be superuser|must have", str(error)), f"{statement}: {error}"
            continue
        raise AssertionError(f"allowed: {statement}")


def no_other_role_connects(postgres):
    postgres.run("psql", "--dbname", "postgres", "--command", "CREATE ROLE other LOGIN PASSWORD 'other'")
    for user, password in (("other", "other"), ("spendguard", "wrong")):
        try:
            postgres.run("psql", "--dbname", "spendguard", "--command", "SELECT 1", PGUSER=user, PGPASSWORD=password)
        except PermissionError as error:
            assert "CONNECT privilege" in str(error) or "authentication failed" in str(error), error
            continue
        raise AssertionError(f"{user} connects")


def documented(program):
    """The words of a command on the page, without quotes."""
    line = re.search(rf"^ *({program} --dbname spendguard .+)$", PAGE, re.MULTILINE)[1]
    quoted = re.findall(r"'([^']*)'|(\S+)", line)
    return [one or other for one, other in quoted]


def a_backup_comes_back_as_documented(postgres):
    postgres.guard("CREATE TABLE kept (id int); INSERT INTO kept VALUES (7)")
    postgres.run(*documented("pg_dump"))
    postgres.guard("DELETE FROM kept")
    put_aside = re.search(r"--command '(ALTER SCHEMA [^']+)'", PAGE)[1]
    postgres.run("psql", "--dbname", "spendguard", "--set", "ON_ERROR_STOP=1", "--command", put_aside)
    postgres.run(*documented("pg_restore"))
    assert postgres.guard("SELECT id FROM kept") == "7"
    # And is the guards' again.
    postgres.guard("ALTER TABLE kept ADD COLUMN more int")
    assert postgres.guard("SELECT tableoid::regclass FROM entry") == "entry_1"
    postgres.guard("CREATE TABLE entry_2 (LIKE entry INCLUDING ALL); ALTER TABLE entry ATTACH PARTITION entry_2 FOR VALUES FROM (9) TO (19)")
    postgres.guard("BEGIN; LOCK TABLE ONLY entry IN ACCESS EXCLUSIVE MODE; ALTER TABLE entry DETACH PARTITION entry_1; DROP TABLE entry_1; COMMIT")


def main():
    tests = [a_guard_can_use_its_schema, and_nothing_else, no_other_role_connects, a_backup_comes_back_as_documented]
    with Postgres() as postgres:
        failed = count_failures(tests, postgres)
    end("database", tests, failed)


if __name__ == "__main__":
    main()

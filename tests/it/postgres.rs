//! A PostgreSQL server of a test's own, in a folder and on a port of its own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many sessions have held something.
static HELD: AtomicUsize = AtomicUsize::new(0);

/// Free space that files of servers in memory may need, in KiB.
const ROOM: u64 = 2_000_000;

/// Where thousands of files are made and removed quickly: in memory, if there is room.
fn quick() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let free = Command::new("df").args(["--output=avail", "-k"]).arg(memory).output();
    let free = free.map(|said| String::from_utf8_lossy(&said.stdout).into_owned()).unwrap_or_default();
    let free = free.lines().last().and_then(|line| line.trim().parse().ok()).unwrap_or(0);
    if free >= ROOM { memory.to_owned() } else { std::env::temp_dir() }
}

/// A running server; stopped and removed when dropped.
pub(crate) struct Postgres {
    folder: tempfile::TempDir,
    bin: PathBuf,
    port: u16,
    settings: &'static str,
}

impl Postgres {
    /// One that is quick: it need not survive the loss of power.
    pub(crate) fn start() -> Self {
        Self::at(&quick(), "-c fsync=off")
    }

    /// One with settings of its own, on a disk.
    pub(crate) fn with(settings: &'static str) -> Self {
        Self::at(&std::env::temp_dir(), settings)
    }

    fn at(place: &Path, settings: &'static str) -> Self {
        let folder = tempfile::tempdir_in(place).unwrap();
        // Its programs refuse to run as root.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Self { folder, bin: programs(), port, settings };
        let data = server.data();
        server.run("initdb", &["-D", &data, "-A", "trust", "-U", "guard", "--no-sync", "-E", "UTF8"]);
        server.again();
        server.sql("postgres", "CREATE DATABASE spendguard");
        server
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }

    /// The address of its database.
    pub(crate) fn url(&self) -> String {
        format!("postgres://guard@127.0.0.1:{}/spendguard", self.port)
    }

    /// Starts it, or starts it again.
    pub(crate) fn again(&self) {
        let folder = self.folder.path().display();
        let options = format!("-p {} -k {folder} -c listen_addresses=127.0.0.1 {}", self.port, self.settings);
        let log = self.folder.path().join("log").display().to_string();
        self.run("pg_ctl", &["-D", &self.data(), "-o", &options, "-l", &log, "-w", "start"]);
    }

    /// Ends it as a crash would: nothing is finished, connections break.
    pub(crate) fn crash(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-w", "stop"]);
    }

    /// Lets it encrypt connections, by a certificate and its key in PEM.
    pub(crate) fn encrypt(&self, certificate: &str, key: &str) {
        for (name, pem) in [("server.crt", certificate), ("server.key", key)] {
            let (given, own) = (self.folder.path().join(name), format!("{}/{name}", self.data()));
            std::fs::write(&given, pem).unwrap();
            // As the server's user, and readable by it alone.
            for (program, arguments) in [("cp", [given.to_str().unwrap(), &own]), ("chmod", ["600", &own])] {
                assert!(
                    as_somebody(Path::new(program)).args(arguments).status().unwrap().success(),
                    "{program} {own}"
                );
            }
        }
        self.sql("postgres", "ALTER SYSTEM SET ssl = on");
        self.run("pg_ctl", &["-D", &self.data(), "-w", "restart"]);
    }

    /// The processes of the server, its own first.
    pub(crate) fn pids(&self) -> Vec<String> {
        let file = std::fs::read_to_string(self.folder.path().join("data/postmaster.pid")).unwrap();
        let server = file.lines().next().unwrap().to_owned();
        let output = Command::new("ps").args(["-o", "pid=", "--ppid", &server]).output().unwrap();
        let children = String::from_utf8(output.stdout).unwrap();
        let children = children.lines().map(|line| line.trim().to_owned());
        std::iter::once(server).chain(children).collect()
    }

    /// Sends a signal to all of its processes.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).args(self.pids()).status().unwrap();
        assert!(status.success());
    }

    /// Keeps a copy of its files, while it does not run.
    pub(crate) fn keep_copy(&self) {
        copy(&self.data(), &format!("{}-copy", self.data()));
    }

    /// Puts the copy in place of its files, while it does not run.
    pub(crate) fn put_copy_back(&self) {
        copy(&format!("{}-copy", self.data()), &self.data());
    }

    /// A place in its folder.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Moves the guards' database to a place; its log stays where it is.
    pub(crate) fn move_to(&self, place: &Path) {
        let folder = place.join("database");
        assert!(as_somebody(Path::new("mkdir")).arg(&folder).status().unwrap().success());
        self.sql("postgres", &format!("CREATE TABLESPACE moved LOCATION '{}'", folder.display()));
        self.sql("postgres", "ALTER DATABASE spendguard SET TABLESPACE moved");
    }

    /// Runs statements in a session of its own, until it is dropped or they have ended.
    pub(crate) fn beside(&self, statements: &str) -> Beside {
        let port = self.port.to_string();
        let mut command = as_somebody(&self.bin.join("psql"));
        command.args(["-h", "127.0.0.1", "-p", &port, "-U", "guard", "-d", "spendguard", "-q"]);
        for statement in statements.split(';') {
            command.args(["-c", statement]);
        }
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(Stdio::null());
        Beside(command.spawn().unwrap())
    }

    /// Runs a statement in a database; returns its answer, one row a line.
    pub(crate) fn sql(&self, database: &str, statement: &str) -> String {
        let port = self.port.to_string();
        let arguments =
            ["-h", "127.0.0.1", "-p", &port, "-U", "guard", "-d", database, "-tA", "-q", "-c", statement];
        self.run("psql", &arguments)
    }

    /// The same in the guards' schema.
    pub(crate) fn ask(&self, statement: &str) -> String {
        self.sql("spendguard", &format!("SET search_path TO spendguard; {statement}"))
    }

    /// Keeps what a statement locks for some seconds, from when this returns; then commits.
    pub(crate) fn hold(&self, statement: &str, seconds: u32) -> Held {
        let port = self.port.to_string();
        let name = format!("held_{}", HELD.fetch_add(1, Ordering::Relaxed));
        let database = format!("dbname=spendguard application_name={name}");
        let mut command = as_somebody(&self.bin.join("psql"));
        command.args(["-h", "127.0.0.1", "-p", &port, "-U", "guard", "-d", &database, "-q", "-c"]);
        let locked =
            format!("SET search_path TO spendguard; BEGIN; {statement}; SELECT pg_sleep({seconds}); COMMIT");
        command.arg(locked).stdin(Stdio::null()).stdout(Stdio::null());
        let held = Held(command.spawn().unwrap());
        let sleeps = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}' AND wait_event = 'PgSleep'"
        );
        while self.sql("spendguard", &sleeps) == "0" {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        held
    }

    /// Begins to log every statement.
    pub(crate) fn log_statements(&self) {
        self.sql("spendguard", "ALTER SYSTEM SET log_statement = 'all'");
        self.sql("spendguard", "SELECT pg_reload_conf()");
        std::thread::sleep(std::time::Duration::from_millis(300));
    }

    /// How many statements with this text were logged.
    pub(crate) fn logged(&self, text: &str) -> usize {
        let log = as_somebody(Path::new("cat")).arg(self.folder.path().join("log")).output().unwrap().stdout;
        String::from_utf8_lossy(&log).lines().filter(|line| line.contains(text)).count()
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = as_somebody(&self.bin.join(program));
        // The server must not hold a pipe of the test's.
        let said = self.folder.path().join("said");
        let output = std::fs::File::create(&said).unwrap();
        std::fs::set_permissions(&said, std::fs::Permissions::from_mode(0o666)).unwrap();
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null());
        command.stdout(output.try_clone().unwrap()).stderr(output);
        let status = command.status().unwrap();
        let said = std::fs::read_to_string(&said).unwrap();
        assert!(status.success(), "{program} {arguments:?}: {said}");
        said.trim().to_owned()
    }
}

/// A session that keeps rows locked; waited for when dropped.
pub(crate) struct Held(std::process::Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let mut command = as_somebody(&self.bin.join("pg_ctl"));
        command.args(["-D", &self.data(), "-m", "immediate", "stop"]).stdout(Stdio::null());
        let _ = command.stderr(Stdio::null()).status();
        // What the server's user made, the test's may not be able to remove.
        let _ = as_somebody(Path::new("rm")).arg("-rf").arg(self.data()).status();
    }
}

/// Replaces a folder by a copy of another.
fn copy(from: &str, to: &str) {
    for arguments in [vec!["-rf", to], vec!["-a", from, to]] {
        let program = if arguments.len() == 2 { "rm" } else { "cp" };
        let status = as_somebody(Path::new(program)).args(arguments).status().unwrap();
        assert!(status.success(), "{program} {from} {to}");
    }
}

/// A session beside the guards'.
pub(crate) struct Beside(std::process::Child);

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command that is not run as root.
fn as_somebody(program: &Path) -> Command {
    if rustix::process::geteuid().is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

/// The folder of the newest server's programs.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let folders = versions.map(|version| version.path().join("bin"));
    let newest = folders.filter(|folder| folder.join("initdb").exists()).max();
    newest.expect("these tests need PostgreSQL 15 or later, such as Debian's package postgresql")
}

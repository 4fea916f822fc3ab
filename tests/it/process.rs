//! Processes of the real binary: the fake OpenAI, and a guard in front of it.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use spendguard::domain::Money;
use spendguard::upstream::Upstream;

use crate::harness::{ADMIN_TOKEN, Answer, call, chat, client};

pub(crate) const SPENDGUARD: &str = env!("CARGO_BIN_EXE_spendguard");

/// A process of the binary; killed when dropped.
pub(crate) struct Process {
    child: Child,
    lines: Vec<String>,
    /// What it has written to its standard error.
    log: File,
}

impl Process {
    pub(crate) fn start(arguments: &[&str], environment: &[(&str, &str)], until: &str) -> Self {
        let mut command = Command::new(SPENDGUARD);
        command.args(arguments).envs(environment.iter().copied());
        Self::of(command, until)
    }

    /// Starts it, and waits for a line of its output; fails with what it says
    /// if it ends before.
    pub(crate) fn of(mut command: Command, until: &str) -> Self {
        let log = tempfile::tempfile().unwrap();
        let mut child = spawn(&mut command, log.try_clone().unwrap());
        let mut lines = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let last = line.contains(until);
            lines.push(line);
            if last {
                return Self { child, lines, log };
            }
        }
        let status = child.wait();
        let log = Self { child, lines, log }.log();
        panic!("it ended with {status:?} before it said {until:?}: {log}");
    }

    /// Starts it and waits for nothing.
    pub(crate) fn launch(mut command: Command) -> Self {
        let log = tempfile::tempfile().unwrap();
        let child = spawn(&mut command, log.try_clone().unwrap());
        Self { child, lines: Vec::new(), log }
    }

    /// The fake OpenAI, and where it is.
    pub(crate) fn fake() -> (Self, String) {
        let fake = Self::start(&["demo", "--upstream-only"], &[], "listening");
        let address = fake.address("fake OpenAI listening");
        (fake, address)
    }

    pub(crate) fn address(&self, before: &str) -> String {
        let line = self.lines.iter().find(|line| line.starts_with(before)).unwrap();
        line.rsplit("://").next().unwrap().to_owned()
    }

    /// All that it has logged by now.
    pub(crate) fn log(&self) -> String {
        // Not by a position that it shares with the process, which writes on.
        let mut text = vec![0; usize::try_from(self.log.metadata().unwrap().len()).unwrap()];
        self.log.read_exact_at(&mut text, 0).unwrap();
        String::from_utf8(text).unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name; one that has ended already gets none.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-s", name, &pid]).stderr(Stdio::null()).status().unwrap();
    }

    /// Waits for the end; returns the exit code.
    pub(crate) fn wait(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// SIGKILL, the end that nothing can prepare for.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn spawn(command: &mut Command, log: File) -> Child {
    command.stdout(Stdio::piped()).stderr(log).spawn().unwrap()
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a guard is started, again and again.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
    /// Its data folder.
    pub(crate) data: PathBuf,
    fake: String,
}

/// A guard that is serving, as a process of its own.
pub(crate) struct Serving {
    pub(crate) process: Process,
    pub(crate) proxy: Upstream,
    pub(crate) admin: Upstream,
    pub(crate) admin_address: String,
}

impl Place {
    pub(crate) fn new(fake: &str, config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let place = Self { folder, data, fake: fake.to_owned() };
        place.configure(config);
        place
    }

    pub(crate) fn configure(&self, config: &str) {
        std::fs::write(self.folder.path().join("spendguard.toml"), config).unwrap();
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.data.join("spendguard.db")
    }

    pub(crate) fn command(&self) -> Command {
        self.command_of(SPENDGUARD.as_ref())
    }

    /// The command that starts a guard here, by another program that runs the
    /// binary, or the binary itself.
    pub(crate) fn command_of(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if program != Path::new(SPENDGUARD) {
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", SPENDGUARD]);
        }
        command
            .args(["serve", "--config"])
            .arg(self.folder.path().join("spendguard.toml"))
            .env("SPENDGUARD_SERVER__LISTEN", "127.0.0.1:0")
            .env("SPENDGUARD_ADMIN__LISTEN", "127.0.0.1:0")
            .env("SPENDGUARD_STORAGE__PATH", &self.data)
            .env("SPENDGUARD_UPSTREAM__BASE_URL", format!("http://{}/v1", self.fake))
            .env("SPENDGUARD_UPSTREAM__FORWARD_HEADERS", "x-fake-*")
            .env("SPENDGUARD_ADMIN_TOKEN", ADMIN_TOKEN)
            .env("OPENAI_API_KEY", "sk-upstream");
        command
    }

    /// Starts a guard and waits until it serves.
    pub(crate) fn serve(&self) -> Serving {
        Self::serve_by(self.command())
    }

    /// The same by another command.
    pub(crate) fn serve_by(command: Command) -> Serving {
        let process = Process::of(command, "OPENAI_BASE_URL");
        let admin_address = process.address("admin listening");
        let proxy = client(process.address("proxy listening"));
        Serving { proxy, admin: client(&admin_address), admin_address, process }
    }

    /// Starts a guard that is expected to refuse; returns what it says. It may
    /// not panic, and it exits with 1.
    pub(crate) fn refused(&self) -> String {
        refused(self.command())
    }
}

pub(crate) fn refused(mut command: Command) -> String {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut status = None;
    for _ in 0..1_500 {
        status = child.try_wait().unwrap();
        if status.is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // Kills one that serves.
    let _ = child.kill();
    let said = String::from_utf8_lossy(&child.wait_with_output().unwrap().stderr).into_owned();
    assert_eq!(status.map(|status| status.code()), Some(Some(1)), "it started: {said}");
    assert!(!said.contains("panicked") && said.contains("error: "), "{said}");
    said
}

impl Serving {
    /// Asks it to stop, and waits until it has done so.
    pub(crate) fn stop(self) {
        self.process.signal("TERM");
        assert_eq!(self.process.wait(), Some(0));
    }

    /// Asks the admin API.
    pub(crate) async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let bearer = format!("Bearer {ADMIN_TOKEN}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let body = body.map_or_else(bytes::Bytes::new, |body| bytes::Bytes::from(body.to_string()));
        call(&self.admin, method, path, &headers, body).await.json()
    }

    pub(crate) async fn make_key(&self) -> String {
        let made = self.ask(Method::POST, "/guard/v1/keys", Some(json!({ "name": "load" }))).await;
        made["value"].as_str().unwrap().to_owned()
    }

    /// A chat request.
    pub(crate) async fn chat(&self, key: &str, headers: &[(&str, &str)], more: Value) -> Answer {
        let bearer = format!("Bearer {key}");
        let mut all = vec![("authorization", bearer.as_str())];
        all.extend_from_slice(headers);
        call(&self.proxy, Method::POST, "/v1/chat/completions", &all, chat(more).to_string().into()).await
    }

    /// Settled and held on a dollar limit for everybody.
    pub(crate) async fn meter(&self, limit: &str) -> (Money, Money) {
        let limit = self.ask(Method::GET, &format!("/guard/v1/limits/{limit}"), None).await;
        let amount = |field: &str| limit["meters"][0][field].as_str().unwrap().parse().unwrap();
        (amount("settled"), amount("held"))
    }

    /// Has the ledger verified.
    pub(crate) async fn verify(&self) {
        let verified = self.ask(Method::GET, "/guard/v1/ledger/verify", None).await;
        assert_eq!(verified["ok"], true, "{verified:#}");
    }

    /// Waits until so many settlements are written, within ten seconds.
    pub(crate) async fn written(&self, settlements: usize) {
        for _ in 0..500 {
            let shown = self.ask(Method::GET, "/guard/v1/ledger?kind=settle&limit=1000", None).await;
            if shown["data"].as_array().unwrap().len() >= settlements {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("there are fewer than {settlements} settlements");
    }

    /// Waits until so much is held, within ten seconds.
    pub(crate) async fn held(&self, limit: &str, wanted: impl Fn(Money) -> bool) {
        for _ in 0..500 {
            if wanted(self.meter(limit).await.1) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("held: {}", self.meter(limit).await.1);
    }
}

/// What the fake has served so far: requests that reached it, and their cost
/// by the sheet's rates of gpt-4o-mini, in nano-dollars.
pub(crate) async fn served(fake: &Upstream) -> (u64, i64) {
    let stats = call(fake, Method::GET, "/__stats", &[], bytes::Bytes::new()).await.json();
    let mini = &stats["models"]["gpt-4o-mini"];
    let of = |field: &str| mini[field].as_u64().unwrap_or(0);
    let pico = (of("prompt_tokens") - of("cached_tokens")) * 150_000
        + of("cached_tokens") * 75_000
        + of("completion_tokens") * 600_000;
    (stats["requests"].as_u64().unwrap(), i64::try_from(pico / 1_000).unwrap())
}

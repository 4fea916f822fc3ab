//! What the tests with hostile clients share: a polite client beside the attack,
//! raw bytes, and the real binary with its memory.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::json;
use spendguard::upstream::Upstream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::harness::{ADMIN_TOKEN, House, call, chat, client};
use crate::process::Process;

/// What a polite client waits for an answer at most, attack or not.
const POLITE_WAIT: Duration = Duration::from_secs(4);

/// A guard under attack: a polite client knows no more of it.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) key: String,
}

impl From<&House> for Target {
    fn from(house: &House) -> Self {
        Self { address: house.proxy_address, key: house.key.clone() }
    }
}

impl Target {
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A request in HTTP/1.1 with this key; `headers` are whole lines.
    pub(crate) fn request(&self, line: &str, headers: &str, body: &str) -> String {
        format!("{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n{headers}\r\n{body}", self.key)
    }

    /// A chat request with its length.
    pub(crate) fn chat(&self, headers: &str) -> String {
        let body = chat(json!({})).to_string();
        let headers = format!("{headers}Content-Length: {}\r\n", body.len());
        self.request("POST /v1/chat/completions", &headers, &body)
    }

    /// Sends bytes on a connection of their own, and returns all that comes back
    /// until it is closed, or nothing has come for two seconds.
    pub(crate) async fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let (mut read, mut write) = self.connect().await.into_split();
        let bytes = bytes.as_ref().to_vec();
        let writing = tokio::task::spawn_local(async move {
            let _ = write.write_all(&bytes).await;
            // Kept open: what ends it is the other side.
            std::future::pending::<()>().await;
        });
        let (mut answer, mut part) = (Vec::new(), vec![0; 1 << 16]);
        while let Ok(Ok(count @ 1..)) = timeout(Duration::from_secs(2), read.read(&mut part)).await {
            answer.extend_from_slice(&part[..count]);
        }
        writing.abort();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Asks as a polite client does, on a new connection, and is served in time.
    pub(crate) async fn ask_politely(&self) {
        let asked = async {
            let mut stream = self.connect().await;
            stream.write_all(self.chat("Connection: close\r\n").as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8_lossy(&answer).into_owned()
        };
        let answer = timeout(POLITE_WAIT, asked).await.expect("a polite client waited for too long");
        assert!(answer.starts_with("HTTP/1.1 200"), "a polite client got {answer:?}");
    }

    /// Runs an attack while a polite client goes on being served.
    pub(crate) async fn beside<T>(&self, attack: impl Future<Output = T>) -> T {
        let target = self.clone();
        let polite = tokio::task::spawn_local(async move {
            loop {
                target.ask_politely().await;
                sleep(Duration::from_millis(10)).await;
            }
        });
        let done = attack.await;
        if polite.is_finished() {
            polite.await.unwrap();
        } else {
            polite.abort();
        }
        self.ask_politely().await;
        done
    }
}

/// The real binary before a fake OpenAI, so that its memory can be measured.
pub(crate) struct Real {
    process: Process,
    _fake: Process,
    admin: Upstream,
    pub(crate) target: Target,
    _folder: tempfile::TempDir,
}

impl Real {
    pub(crate) async fn start(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fake = Process::start(&["demo", "--upstream-only"], &[], "listening");
        let file = folder.path().join("spendguard.toml");
        std::fs::write(&file, config).unwrap();
        let data = folder.path().join("data").display().to_string();
        let base = format!("http://{}/v1", fake.address("fake OpenAI listening"));
        let environment = [
            ("SPENDGUARD_SERVER__LISTEN", "127.0.0.1:0"),
            ("SPENDGUARD_ADMIN__LISTEN", "127.0.0.1:0"),
            ("SPENDGUARD_STORAGE__PATH", data.as_str()),
            ("SPENDGUARD_UPSTREAM__BASE_URL", base.as_str()),
            ("SPENDGUARD_UPSTREAM__FORWARD_HEADERS", "x-fake-*"),
            ("SPENDGUARD_ADMIN_TOKEN", ADMIN_TOKEN),
            ("OPENAI_API_KEY", "sk-upstream"),
        ];
        let arguments = ["serve", "--config", file.to_str().unwrap()];
        let process = Process::start(&arguments, &environment, "OPENAI_BASE_URL");
        let admin = client(process.address("admin listening"));
        let address = process.address("proxy listening").parse().unwrap();
        let mut real = Self {
            process,
            _fake: fake,
            admin,
            target: Target { address, key: String::new() },
            _folder: folder,
        };
        let made = real.ask(Method::POST, "/guard/v1/keys", json!({ "name": "test" }).to_string()).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        made.json()["value"].as_str().unwrap().clone_into(&mut real.target.key);
        real
    }

    async fn ask(&self, method: Method, path: &str, body: String) -> crate::harness::Answer {
        let bearer = format!("Bearer {ADMIN_TOKEN}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        call(&self.admin, method, path, &headers, Bytes::from(body)).await
    }

    /// Memory in use, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.process.pid())).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4
    }

    /// Runs an attack beside a polite client; returns by how many KiB memory
    /// grew at most.
    pub(crate) async fn growth_kib(&self, attack: impl Future<Output = ()>) -> u64 {
        // What polite requests need for the first time is not the attack's.
        for _ in 0..8 {
            self.target.ask_politely().await;
        }
        let before = self.resident_kib();
        let mut most = before;
        let attack = self.target.beside(attack);
        tokio::pin!(attack);
        loop {
            tokio::select! {
                () = attack.as_mut() => break,
                () = sleep(Duration::from_millis(10)) => most = most.max(self.resident_kib()),
            }
        }
        most.max(self.resident_kib()) - before
    }

    /// Waits until no request is in flight any more.
    pub(crate) async fn quiet(&self) {
        for _ in 0..500 {
            let metrics = self.ask(Method::GET, "/metrics", String::new()).await;
            let text = String::from_utf8_lossy(&metrics.body).into_owned();
            if text.lines().any(|line| line == "spendguard_inflight_requests 0") {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("requests are still in flight");
    }
}

/// How many sockets a test may open: what is wanted, if the machine allows it.
pub(crate) fn sockets(wanted: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let most = line.split_whitespace().nth(3).unwrap().parse().unwrap_or(usize::MAX);
    wanted.min(most.saturating_sub(300) / 2)
}

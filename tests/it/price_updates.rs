//! `spendguard prices update` and `check`, beside a guard that runs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{ADMIN_TOKEN, run};
use crate::network::certificate;
use crate::process::{Place, Process, SPENDGUARD};

/// A small sheet of a day, whose gpt-4o-mini costs so much for a million input tokens.
fn sheet(day: &str, input: &str) -> String {
    let rates = json!({ "standard": { "input": input, "output": "0.6" } });
    let models = json!({ "gpt-4o-mini": { "mode": "chat", "rates": rates }, "gpt-7": { "mode": "chat", "rates": rates } });
    json!({ "schema": "spendguard-prices/1", "as_of": day, "models": models }).to_string()
}

fn digest(bytes: &[u8]) -> String {
    format!("{:x}", bytes::Bytes::copy_from_slice(&Sha256::digest(bytes)))
}

/// A folder with a configuration, and commands that are typed beside it.
struct Workspace {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

impl Workspace {
    fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Self { folder, environment: Vec::new() };
        std::fs::create_dir(workspace.path("data")).unwrap();
        let nowhere = "[admin]\nlisten = \"127.0.0.1:1\"\n";
        let text = format!("[storage]\npath = '{}'\n{nowhere}{config}", workspace.path("data").display());
        std::fs::write(workspace.path("spendguard.toml"), text).unwrap();
        workspace
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn types(&self, arguments: &[&str]) -> (i32, String) {
        let done = Command::new(SPENDGUARD)
            .args(arguments)
            .arg("--config")
            .arg(self.path("spendguard.toml"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .output()
            .unwrap();
        let printed = [done.stdout, done.stderr].concat();
        (done.status.code().unwrap(), String::from_utf8(printed).unwrap())
    }

    /// Updates from a source with the digest that it should have.
    fn update(&self, source: &str, text: &str, more: &[&str]) -> (i32, String) {
        let digest = digest(text.as_bytes());
        self.types(&[&["prices", "update", source, "--sha256", &digest], more].concat())
    }

    /// The same from a file of that text.
    fn update_file(&self, text: &str, more: &[&str]) -> (i32, String) {
        let source = self.path("new.json");
        std::fs::write(&source, text).unwrap();
        self.update(source.to_str().unwrap(), text, more)
    }
}

fn of_file(folder: &Path) -> String {
    format!("[pricing]\nsheet = '{}'\n", folder.join("prices.json").display())
}

#[test]
fn a_sheet_is_put_in_place_only_if_it_is_the_one_that_was_meant() {
    let workspace = Workspace::new("");
    let in_place = workspace.path("prices.json");
    let config = std::fs::read_to_string(workspace.path("spendguard.toml")).unwrap();
    std::fs::write(workspace.path("spendguard.toml"), config + &of_file(workspace.folder.path())).unwrap();
    let (first, second) = (sheet("2026-10-01", "0.15"), sheet("2026-11-21", "0.30"));
    // No file is there yet: the configuration can't be loaded, and must not have to be.
    let (code, text) = workspace.update_file(&first, &[]);
    assert!(
        code == 1 && text.contains("older than the one in force"),
        "than the built-in one: {code} {text}"
    );
    let (code, text) = workspace.update_file(&first, &["--older"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(std::fs::read_to_string(&in_place).unwrap(), first);
    // The wrong digest, no sheet, an older one, a sheet without models: nothing is written.
    let other = workspace.path("other.json");
    std::fs::write(&other, &second).unwrap();
    let (code, text) = workspace.update(other.to_str().unwrap(), "something else", &[]);
    assert!(
        code == 1 && text.contains(&digest(second.as_bytes())) && text.contains("nothing was written"),
        "{text}"
    );
    let empty = r#"{"as_of": "2026-11-21", "models": {}}"#;
    for (text, why) in [("{}", "no price sheet"), (empty, "no models"), (&sheet("2026-09-30", "1"), "older")]
    {
        let (code, said) = workspace.update_file(text, &[]);
        assert!(code == 1 && said.contains(why), "{why}: {said}");
    }
    assert_eq!(std::fs::read_to_string(&in_place).unwrap(), first);
    let (code, text) = workspace.update_file(&second, &[]);
    assert_eq!(code, 0, "{text}");
    for part in [
        "2026-10-01 (2 models) → 2026-11-21 (2 models)",
        "changed  gpt-4o-mini: 0.15 in, 0.6 out → 0.3 in, 0.6 out",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    assert_eq!(std::fs::read_to_string(&in_place).unwrap(), second);
    // For programs.
    let (code, text) = workspace.update_file(&sheet("2026-11-22", "0.30"), &["--format", "json"]);
    let said: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (code, &said["after"], &said["changed"]),
        (0, &json!({ "as_of": "2026-11-22", "models": 2 }), &json!([]))
    );
    let (code, text) = workspace.types(&["prices", "update", "x", "--sha256", "12"]);
    assert!(code == 2 && text.contains("64 hexadecimal digits"), "{text}");
    let (code, text) = workspace.update("http://127.0.0.1:1/prices.json", "", &[]);
    assert!(code == 2 && text.contains("https:// only"), "{text}");
    // What the configuration has no line for is put into the data folder.
    let bare = Workspace::new("");
    let (code, text) = bare.update_file(&sheet("2099-01-01", "1"), &[]);
    let written = bare.path("data").join("prices.json");
    assert!(
        code == 0 && text.contains(&format!("[pricing] sheet = {:?}", written.display().to_string())),
        "{text}"
    );
    assert!(written.exists());
}

#[test]
fn a_running_guard_takes_up_a_new_sheet_and_check_judges_the_one_it_has_in_force() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let in_place = folder.path().join("prices.json");
        std::fs::write(&in_place, sheet("2020-01-01", "0.15")).unwrap();
        let (_fake, fake) = Process::fake();
        let place = Place::new(&fake, &of_file(folder.path()));
        let guard = place.serve();
        let check = || {
            let done = Command::new(SPENDGUARD)
                .args(["prices", "check", "--format", "json"])
                .env("SPENDGUARD_ADMIN_URL", format!("http://{}", guard.admin_address))
                .env("SPENDGUARD_ADMIN_TOKEN", ADMIN_TOKEN)
                .output()
                .unwrap();
            (done.status.code().unwrap(), serde_json::from_slice::<Value>(&done.stdout).unwrap())
        };
        let (code, said) = check();
        assert_eq!(
            (code, &said["stale"], &said["file"]),
            (1, &json!(true), &json!(in_place.to_str().unwrap()))
        );
        let workspace = Workspace::new(&of_file(folder.path()));
        let (code, text) = workspace.update_file(&sheet("2099-01-01", "0.30"), &[]);
        assert_eq!(code, 0, "{text}");
        for _ in 0..100 {
            if check().0 == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (code, said) = check();
        assert_eq!((code, &said["stale"], &said["models"]), (0, &json!(false), &json!(2)), "{said}");
        assert!(said["version"].as_str().unwrap().starts_with("2099-01-01"), "{said}");
        let shown = guard.ask(Method::GET, "/guard/v1/prices", None).await;
        assert_eq!(shown, said);
        // Without a guard it is the configuration's, and a guard that was named must answer.
        let (code, text) = workspace.types(&["prices", "check"]);
        assert!(code == 0 && text.contains("of the configuration, as no guard could be asked"), "{text}");
        let named = ["prices", "check", "--admin-url", "http://127.0.0.1:1"];
        let (code, text) = Workspace {
            environment: vec![("SPENDGUARD_ADMIN_TOKEN".into(), ADMIN_TOKEN.into())],
            ..workspace
        }
        .types(&named);
        assert!(code == 1 && text.contains("no guard answers"), "{text}");
    });
}

/// What is at a path: a text, or where it leads on to.
type At = (&'static str, Result<String, String>);

/// A server of files with TLS: its address, and a folder with the certificate to trust.
async fn serve(files: Vec<At>) -> (String, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let (_, key, certificate) = certificate(folder.path());
    let key = rustls::pki_types::PrivateKeyDer::from_pem_file(key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut asked = vec![0; 1 << 14];
            let count = stream.read(&mut asked).await.unwrap_or(0);
            let asked = String::from_utf8_lossy(&asked[..count]).into_owned();
            let path = asked.split(' ').nth(1).unwrap_or_default();
            let answer = match files.iter().find(|(known, _)| *known == path) {
                Some((_, Ok(text))) => format!("200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()),
                Some((_, Err(to))) => format!("302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"),
                None => "404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
            };
            let _ = stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (address, folder)
}

#[test]
fn a_sheet_is_fetched_by_https_and_from_where_that_leads_on_to() {
    run(async {
        let mut workspace = Workspace::new("");
        let text = sheet("2099-01-01", "1");
        let (address, trusted) = serve(vec![
            ("/latest", Err("/v1/prices.json".to_owned())),
            ("/v1/prices.json", Ok(text.clone())),
            ("/plain", Err("http://127.0.0.1:1/prices.json".to_owned())),
            ("/round", Err("/round".to_owned())),
        ])
        .await;
        workspace.environment =
            vec![("SSL_CERT_FILE".to_owned(), trusted.path().join("cert.pem").display().to_string())];
        let update = |workspace: Workspace, path: &str| {
            let (source, text) = (format!("https://{address}{path}"), text.clone());
            async move {
                let typed = tokio::task::spawn_blocking(move || {
                    let done = workspace.update(&source, &text, &[]);
                    (done, workspace)
                });
                typed.await.unwrap()
            }
        };
        for (path, why) in [
            ("/plain", "redirects to http://127.0.0.1:1/prices.json; only https:// is followed"),
            ("/round", "more than 5 redirects"),
            ("/nothing", "404"),
        ] {
            let ((code, said), back) = update(workspace, path).await;
            workspace = back;
            assert!(
                code == 1 && said.contains(why) && said.contains("nothing was written"),
                "{path}: {said}"
            );
        }
        let ((code, said), workspace) = update(workspace, "/latest").await;
        assert_eq!(code, 0, "{said}");
        assert_eq!(std::fs::read_to_string(workspace.path("data").join("prices.json")).unwrap(), text);
        let untrusted = Workspace { environment: Vec::new(), ..workspace };
        let ((code, said), _) = update(untrusted, "/latest").await;
        assert!(code == 1 && said.contains("nothing was written"), "{said}");
    });
}

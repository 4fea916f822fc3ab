//! Talking to the admin API of a running guard.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;

use crate::domain::Secret;
use crate::upstream::{Config, Upstream, roots};

const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Verifying tens of millions of entries takes minutes.
const TIMEOUT: Duration = Duration::from_secs(3_600);

/// Why a command failed: one line, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// What happened and what to do.
    pub message: String,
    /// 1 failed, 2 wrong usage or configuration.
    pub code: u8,
    /// Whether no guard could be reached.
    pub is_unreachable: bool,
}

impl Failure {
    /// A command that failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1, is_unreachable: false }
    }

    /// A command that was called wrongly.
    pub fn wrong(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 2, is_unreachable: false }
    }

    /// The code to exit with.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

/// A guard's admin API, and the token for it.
#[derive(Debug)]
pub struct Connection {
    client: Upstream,
    url: String,
    token: Result<Secret, String>,
}

impl Connection {
    /// The API at a URL. The token comes from a file that was named, else from
    /// the environment's `SPENDGUARD_ADMIN_TOKEN`, else from the data folder.
    pub fn find(
        url: String,
        token_file: Option<PathBuf>,
        environment: Option<String>,
        data_file: &Path,
    ) -> Result<Self, Failure> {
        let base_url =
            url.parse().map_err(|_| Failure::wrong(format!("{url:?} is no URL for --admin-url")))?;
        let config = Config { base_url, connect_timeout: Duration::from_secs(5), response_timeout: TIMEOUT };
        let read = |file: &Path| std::fs::read_to_string(file).map(|text| Secret::new(text.trim()));
        let token = match (token_file, environment) {
            (Some(file), _) => read(&file)
                .map_err(|error| format!("the token file {} can't be read: {error}", file.display())),
            (None, Some(token)) => Ok(Secret::new(token.trim())),
            (None, None) => read(data_file).map_err(|error| {
                let file = std::path::absolute(data_file).unwrap_or_else(|_| data_file.to_owned());
                let remedy = if error.kind() == io::ErrorKind::NotFound {
                    "Name the guard's configuration with --config, or pass --token-file, or set SPENDGUARD_ADMIN_TOKEN"
                } else {
                    "Run the command as a user who may read it, or pass --token-file, or set SPENDGUARD_ADMIN_TOKEN"
                };
                format!(
                    "no admin token found: there is no --token-file, no SPENDGUARD_ADMIN_TOKEN in the environment, no \
                     [admin] token in the configuration, and {} can't be read ({error}). {remedy}",
                    file.display()
                )
            }),
        };
        Ok(Self { client: Upstream::new(&config, &roots()), url, token })
    }

    /// Sends a GET request.
    pub(super) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.call(Method::GET, path, None).await
    }

    /// Sends a request with or without a JSON body, and reads the JSON answer.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, Failure> {
        let token =
            self.token.as_ref().map_err(|why| Failure { is_unreachable: true, ..Failure::wrong(why) })?;
        let mut headers = HeaderMap::new();
        let bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose()));
        headers.insert(
            header::AUTHORIZATION,
            bearer.map_err(|_| Failure::wrong("the admin token has characters that no header can carry"))?,
        );
        if body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let answer = self.client.send(method, path, headers, bytes).await.map_err(|error| {
            let url = &self.url;
            let message = format!("no guard answers at {url} ({error}); is `spendguard serve` running?");
            Failure { is_unreachable: true, ..Failure::failed(message) }
        })?;
        let status = answer.status();
        let read = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let bytes =
            read.map_err(|error| Failure::failed(format!("the answer broke off: {error}")))?.to_bytes();
        let value: Value = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).map_err(|_| {
                Failure::failed(format!("{} answered {status}, and not as a guard does", self.url))
            })?
        };
        if status.is_success() {
            return Ok(value);
        }
        let message = value["error"]["message"].as_str().unwrap_or("no reason given");
        let code = if status.as_u16() == 400 { 2 } else { 1 };
        Err(Failure { code, ..Failure::failed(message) })
    }

    /// All pages of a list.
    pub(super) async fn all(&self, path: &str) -> Result<Vec<Value>, Failure> {
        let mut all = Vec::new();
        let mut after = String::new();
        loop {
            let page = self.get(&format!("{path}?limit=1000{after}")).await?;
            all.extend(page["data"].as_array().cloned().unwrap_or_default());
            match page["last_id"].as_str() {
                Some(last) if page["has_more"] == true => {
                    after = format!("&after={}", segment(last));
                }
                _ => return Ok(all),
            }
        }
    }
}

/// A path segment with everything but letters, digits and `-_.~:` escaped.
pub(super) fn segment(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~:".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

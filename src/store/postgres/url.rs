//! The address of a PostgreSQL database, as operators write it.

use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

use tokio_postgres::config::{Host, SslMode};

/// How often a connection without traffic is probed: a host that is gone is noticed after four times.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// How long what was sent may stay unacknowledged by the other host.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Why an address can't be used. Never names its password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum UrlError {
    /// It is no address of a PostgreSQL database.
    #[error("it is not of the form postgres://user:password@host:5432/database?sslmode=verify-full")]
    Form,
    /// Its encryption would protect from nothing, or is not known.
    #[error(
        "sslmode={0} is not supported: write verify-full, which verifies the server's certificate and name, or \
         disable for a network that only you can read"
    )]
    SslMode(String),
}

/// An address, read.
#[derive(Clone, Debug)]
pub(super) struct Url {
    pub(super) config: tokio_postgres::Config,
    pub(super) is_encrypted: bool,
    /// Certificates to trust in place of the system's.
    pub(super) root_certificates: Option<PathBuf>,
    /// Host and database, to be shown.
    pub(super) shown: String,
}

impl Url {
    /// Reads an address.
    ///
    /// `sslmode` is `verify-full` where it is not given, and `disable` for this machine's own addresses.
    /// `require` is taken for `verify-full`: encryption to a server that was not verified
    /// hides nothing from one that answers in its place.
    pub(super) fn read(text: &str) -> Result<Self, UrlError> {
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err(UrlError::Form);
        }
        let (address, query) = text.split_once('?').unwrap_or((text, ""));
        let (mut mode, mut root_certificates, mut kept) = (None, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = || percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned();
            match name {
                "sslmode" => mode = Some(value()),
                "sslrootcert" => root_certificates = Some(PathBuf::from(value())),
                _ => kept.push(pair),
            }
        }
        let rest = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
        let mut config =
            tokio_postgres::Config::from_str(&format!("{address}{rest}")).map_err(|_| UrlError::Form)?;
        if config.get_hosts().is_empty() {
            return Err(UrlError::Form);
        }
        let is_encrypted = match mode.as_deref() {
            None => !config.get_hosts().iter().all(is_of_this_machine),
            Some("disable") => false,
            Some("verify-full" | "require") => true,
            Some(other) => return Err(UrlError::SslMode(other.to_owned())),
        };
        config.ssl_mode(if is_encrypted { SslMode::Require } else { SslMode::Disable });
        config.channel_binding(tokio_postgres::config::ChannelBinding::Disable);
        config.application_name("spendguard").keepalives_idle(KEEPALIVE).keepalives_interval(KEEPALIVE);
        config.keepalives_retries(3).tcp_user_timeout(SILENCE_MAX);
        let shown = shown(&config);
        Ok(Self { config, is_encrypted, root_certificates, shown })
    }
}

fn is_of_this_machine(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => matches!(&**name, "localhost" | "127.0.0.1" | "::1" | "[::1]"),
        Host::Unix(_) => true,
    }
}

fn shown(config: &tokio_postgres::Config) -> String {
    let host = |host: &Host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    };
    let hosts: Vec<String> = config.get_hosts().iter().map(host).collect();
    format!("{}/{}", hosts.join(","), config.get_dbname().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encrypted(text: &str) -> Result<bool, UrlError> {
        Url::read(text).map(|url| url.is_encrypted)
    }

    #[test]
    fn other_machines_are_reached_encrypted_unless_that_is_turned_off() {
        assert_eq!(encrypted("postgres://u:p@db.example.com/spendguard"), Ok(true));
        assert_eq!(encrypted("postgres://u:p@db.example.com/spendguard?sslmode=require"), Ok(true));
        assert_eq!(encrypted("postgresql://u:p@db.example.com/spendguard?sslmode=disable"), Ok(false));
        assert_eq!(encrypted("postgres://u:p@127.0.0.1:5433/spendguard"), Ok(false));
        let prefers = "postgres://u@db.example.com/x?sslmode=prefer";
        assert_eq!(encrypted(prefers), Err(UrlError::SslMode("prefer".to_owned())));
        for wrong in ["mysql://u@h/x", "host=localhost", "postgres://", ""] {
            assert_eq!(encrypted(wrong), Err(UrlError::Form), "{wrong}");
        }
    }

    #[test]
    fn what_is_shown_has_no_password() {
        let url = Url::read("postgres://u:hunter2@db.example.com:5433/spend?sslrootcert=/a%20b.pem").unwrap();
        assert_eq!(url.shown, "db.example.com/spend");
        assert_eq!(url.root_certificates, Some(PathBuf::from("/a b.pem")));
        assert!(!format!("{url:?}").contains("hunter2"));
    }
}

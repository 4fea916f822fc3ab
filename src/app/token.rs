//! The admin token: configured, or made at the first start and kept in a file.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;

use crate::app::StartError;
use crate::config::Settings;
use crate::domain::Secret;
use crate::keys::{self, KeyHash};

/// The file's name in the data folder.
pub(crate) const FILE: &str = "admin-token";

/// The admin token and where it came from.
#[derive(Debug)]
pub struct Token {
    secret: Secret,
    file: Option<PathBuf>,
}

impl Token {
    /// The configured token, else the one in the data folder, else a new one
    /// put there, readable by its owner alone.
    pub(super) fn of(settings: &Settings) -> Result<Self, StartError> {
        if let Some(secret) = settings.admin.token.clone() {
            return Ok(Self { secret, file: None });
        }
        let file = settings.storage_path.join(FILE);
        if let Ok(text) = std::fs::read_to_string(&file) {
            let mode = std::fs::metadata(&file)?.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(format!(
                    "{}: other users can read it (its mode is {mode:o}), so they may know the token; remove the file for a new \
                     one, or keep the token by `chmod 600` if no other user has read it",
                    file.display()
                )
                .into());
            }
            let secret = Secret::new(text.trim());
            if secret.expose().len() < 16 {
                return Err(format!(
                    "{}: a token needs at least 16 characters; remove the file for a new one",
                    file.display()
                )
                .into());
            }
            return Ok(Self { secret, file: Some(file) });
        }
        let secret = Secret::new(keys::new_id("sk-admin-")?);
        let mut options = OpenOptions::new();
        let mut made = options.write(true).create_new(true).mode(0o600).open(&file)?;
        writeln!(made, "{}", secret.expose())?;
        Ok(Self { secret, file: Some(file) })
    }

    /// The token itself.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Its hash.
    pub(super) fn hash(&self) -> KeyHash {
        KeyHash::of(self.secret.expose().as_bytes())
    }

    /// Tells an operator where the token is.
    pub fn whereabouts(&self) -> String {
        self.file.as_ref().map_or_else(|| "as configured".to_owned(), |file| format!("in {}", file.display()))
    }
}

//! E-mail by SMTP, always within TLS but to this machine itself.

use http::Uri;
use lettre::message::header::ContentType;
use lettre::message::{Mailbox, Mailboxes};
use lettre::transport::smtp::authentication::Credentials;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};

use crate::alerts::Telling;
use crate::domain::Secret;
use crate::store::organization::Channel as Mail;

/// The mailbox of operators.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server: `smtp://user@host:587` (STARTTLS) or `smtps://user@host:465`.
    pub smtp: Uri,
    /// The user's password.
    pub password: Option<Secret>,
    /// The sender.
    pub from: Mailbox,
    /// The receivers.
    pub to: Mailboxes,
}

/// Whether mail can be sent to what may be an address, without a name beside it.
pub fn is_address(text: &str) -> bool {
    text.parse::<Address>().is_ok()
}

pub(super) struct Email {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    pub(super) to: Mailboxes,
}

impl std::fmt::Debug for Email {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Email").field("to", &self.to).finish_non_exhaustive()
    }
}

impl Email {
    pub(super) fn new(config: &Config) -> Result<Self, String> {
        let host = config.smtp.host().unwrap_or_default();
        let is_here = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        let builder = match config.smtp.scheme_str() {
            Some("smtps") => AsyncSmtpTransport::<Tokio1Executor>::relay(host),
            Some("smtp") if is_here => Ok(AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)),
            Some("smtp") => AsyncSmtpTransport::<Tokio1Executor>::starttls_relay(host),
            _ => return Err("its smtp must begin with smtp:// or smtps://".to_owned()),
        };
        let mut builder = builder.map_err(|error| error.to_string())?.timeout(Some(super::SEND_MAX));
        if let Some(port) = config.smtp.port_u16() {
            builder = builder.port(port);
        }
        let user = config.smtp.authority().and_then(|authority| authority.as_str().rsplit_once('@'));
        match (user, &config.password) {
            (Some((user, _)), Some(password)) => {
                // An address as a user has its @ escaped.
                let user = user.replace("%40", "@");
                builder = builder.credentials(Credentials::new(user, password.expose().to_owned()));
            }
            (None, None) => {}
            (Some(_), None) => return Err("its smtp names a user, so it needs a password".to_owned()),
            (None, Some(_)) => return Err("it has a password, so its smtp must name a user".to_owned()),
        }
        Ok(Self { transport: builder.build(), from: config.from.clone(), to: config.to.clone() })
    }

    /// `mail` is whom it is for instead of those it is configured for.
    pub(super) async fn send(&self, telling: &Telling, mail: Option<&Mail>) -> Result<(), String> {
        let prefix = mail.and_then(|mail| mail.subject_prefix.as_deref()).unwrap_or_default();
        let subject = format!("{prefix} {}", telling.subject);
        let mut message = Message::builder()
            .from(self.from.clone())
            .subject(subject.trim())
            .message_id(Some(format!("<{}@{}>", telling.id, self.from.email.domain())))
            .header(ContentType::TEXT_PLAIN);
        for receiver in self.receivers(mail)?.iter() {
            message = message.to(receiver.clone());
        }
        let message = message.body(telling.text.clone()).map_err(|error| error.to_string())?;
        self.transport.send(message).await.map(drop).map_err(|error| error.to_string())
    }

    fn receivers(&self, mail: Option<&Mail>) -> Result<Mailboxes, String> {
        let Some(mail) = mail else { return Ok(self.to.clone()) };
        let address = |text: &String| match text.parse() {
            Ok(address) => Ok(Mailbox::new(None, address)),
            Err(_) => Err(format!("{text:?} is no e-mail address")),
        };
        mail.recipients.iter().map(address).collect()
    }
}

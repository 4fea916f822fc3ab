//! E-mail by SMTP, over TLS unless the server is this machine or the configuration allows plain text.

use http::Uri;
use lettre::message::header::ContentType;
use lettre::message::{Mailbox, Mailboxes};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::response::Category;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};

use crate::alerts::{Message, Unsent};
use crate::domain::Secret;
use crate::store::records::Channel as Mail;

/// Whether e-mail may be sent unencrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MailTls {
    /// Only to this machine.
    #[default]
    Required,
    /// To any server: the relay is in a trusted network.
    None,
}

/// The mailbox of operators.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server: `smtp://user@host:587` (STARTTLS) or `smtps://user@host:465`.
    pub smtp: Uri,
    /// The user's password.
    pub password: Option<Secret>,
    /// Whether e-mail may be sent unencrypted.
    pub tls: MailTls,
    /// The sender.
    pub from: Mailbox,
    /// The receivers.
    pub to: Mailboxes,
}

/// Whether a text is a valid e-mail address, without a display name.
pub fn is_address(text: &str) -> bool {
    text.parse::<Address>().is_ok()
}

pub(super) struct Email {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    host: String,
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
            Some("smtp") if is_here || config.tls == MailTls::None => {
                Ok(AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host))
            }
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
                // In a user that is an e-mail address, the @ is escaped.
                let user = user.replace("%40", "@");
                builder = builder.credentials(Credentials::new(user, password.expose().to_owned()));
            }
            (None, None) => {}
            (Some(_), None) => return Err("its smtp names a user, so it needs a password".to_owned()),
            (None, Some(_)) => return Err("it has a password, so its smtp must name a user".to_owned()),
        }
        let (host, from, to) = (host.to_owned(), config.from.clone(), config.to.clone());
        Ok(Self { transport: builder.build(), host, from, to })
    }

    /// The configured addresses.
    pub(super) fn recipients(&self) -> impl Iterator<Item = String> {
        self.to.iter().map(|mailbox| mailbox.email.to_string())
    }

    /// Sends to one recipient. `mail` are the e-mail settings of a spend alert. Without a recipient,
    /// as in deliveries of older releases, the message goes to the recipients of `mail`, or to all
    /// that are configured.
    pub(super) async fn send(
        &self,
        message: &Message,
        recipient: Option<&str>,
        mail: Option<&Mail>,
    ) -> Result<(), Unsent> {
        let prefix = mail.and_then(|mail| mail.subject_prefix.as_deref()).unwrap_or_default();
        let subject = format!("{prefix} {}", message.subject);
        let mut email = lettre::Message::builder()
            .from(self.from.clone())
            .subject(subject.trim())
            .message_id(Some(format!("<{}@{}>", message.id, self.from.email.domain())))
            .header(ContentType::TEXT_PLAIN);
        for receiver in self.receivers(recipient, mail)? {
            email = email.to(receiver);
        }
        let email = email.body(message.text.clone()).map_err(|error| Unsent::Yet(error.to_string()))?;
        self.transport.send(email).await.map(drop).map_err(|error| self.unsent(&error))
    }

    /// Classifies an error. A 55x refuses the recipient; any other failure may be temporary.
    fn unsent(&self, error: &lettre::transport::smtp::Error) -> Unsent {
        let text = error.to_string();
        if error.is_client() && text.contains("STARTTLS") {
            return Unsent::Yet(format!(
                "{} offers no STARTTLS, so e-mail would be sent unencrypted: use smtps://, or set tls = \"none\" under \
                 [alerts.email] if it is a relay in your own network",
                self.host
            ));
        }
        let is_of_mailbox = error.status().is_some_and(|code| code.category == Category::MailSystem);
        if error.is_permanent() && is_of_mailbox { Unsent::Refused(text) } else { Unsent::Yet(text) }
    }

    fn receivers(&self, recipient: Option<&str>, mail: Option<&Mail>) -> Result<Vec<Mailbox>, Unsent> {
        let named: Vec<&str> = match (recipient, mail) {
            (Some(recipient), _) => vec![recipient],
            (None, Some(mail)) => mail.recipients.iter().map(String::as_str).collect(),
            (None, None) => return Ok(self.to.iter().cloned().collect()),
        };
        let mailbox = |text: &str| {
            // With its configured display name.
            let known = self.to.iter().find(|known| AsRef::<str>::as_ref(&known.email) == text);
            let parsed = || text.parse().map(|address| Mailbox::new(None, address));
            known.cloned().map_or_else(parsed, Ok)
        };
        let wrong = |text: &str| Unsent::Refused(format!("{text:?} is no e-mail address"));
        named.into_iter().map(|text| mailbox(text).map_err(|_| wrong(text))).collect()
    }
}

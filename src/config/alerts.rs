//! Alerts: from the file to checked channels.

use std::collections::HashMap;

use http::Uri;

use crate::alerts::{Branding, Config, EmailConfig, MailTls, SlackConfig, WebhookConfig};
use crate::config::problems::{Notes, base_url, secret};
use crate::config::raw::{Raw, alerts};

/// Where alerts go. `admin` is the address of the admin listener.
pub(super) fn alerts(
    raw: &Raw,
    admin: &str,
    environment: &HashMap<String, String>,
    notes: &mut Notes<'_>,
) -> Option<Config> {
    let link = raw.alerts.link.clone().unwrap_or_else(|| admin.to_owned());
    let branding = Branding { link: link.into() };
    let email = raw.alerts.email.as_ref().map(|raw| email(raw, environment, notes));
    let webhooks = raw.alerts.webhook.iter().enumerate().map(|(at, raw)| {
        let url = notes.ok(&format!("alerts.webhook[{at}].url"), webhook_url(&raw.url));
        let secret = notes.ok(&format!("alerts.webhook[{at}].secret"), secret(&raw.secret, environment));
        Some(WebhookConfig { url: url?, secret: secret? })
    });
    let webhooks: Vec<_> = webhooks.collect();
    let slacks = raw.alerts.slack.iter().enumerate().map(|(at, raw)| {
        let url = notes.ok(&format!("alerts.slack[{at}].url"), secret(&raw.url, environment));
        Some(SlackConfig { url: url? })
    });
    let slacks: Vec<_> = slacks.collect();
    Some(Config {
        email: match email {
            Some(email) => Some(email?),
            None => None,
        },
        webhooks: webhooks.into_iter().collect::<Option<_>>()?,
        slacks: slacks.into_iter().collect::<Option<_>>()?,
        branding,
    })
}

fn webhook_url(text: &str) -> Result<Uri, String> {
    let without_query = text.split('?').next().unwrap_or(text);
    base_url(without_query)
        .map_err(|_| format!("{text:?} is no URL; write it as \"https://example.com/hook\""))?;
    text.parse().map_err(|_| format!("{text:?} is no URL"))
}

fn email(
    raw: &alerts::Email,
    environment: &HashMap<String, String>,
    notes: &mut Notes<'_>,
) -> Option<EmailConfig> {
    let smtp: Result<Uri, String> = raw.smtp.parse().map_err(|_| String::new());
    let smtp = smtp.ok().filter(|uri| {
        matches!(uri.scheme_str(), Some("smtp" | "smtps")) && uri.host().is_some_and(|host| !host.is_empty())
    });
    let wrong = || format!("{:?} is no mail server; write it as \"smtp://user@mail.example:587\"", raw.smtp);
    let smtp = notes.ok("alerts.email.smtp", smtp.ok_or_else(wrong));
    let password = raw.password.as_ref().map(|source| secret(source, environment)).transpose();
    let password = notes.ok("alerts.email.password", password);
    let choices = [("required", MailTls::Required), ("none", MailTls::None)];
    let tls = notes.one_of("alerts.email.tls", &raw.tls, &choices)?;
    let needs_tls = raw.password.is_some() || raw.smtp.starts_with("smtps:");
    if tls == MailTls::None && needs_tls {
        let problem = "\"none\" contradicts smtps:// and a password, which would go in the clear; leave one of them out";
        notes.ok::<()>("alerts.email.tls", Err(problem.to_owned()));
    }
    let no_address = |text: &str| format!("{text:?} is no e-mail address");
    let from = notes.ok("alerts.email.from", raw.from.parse().map_err(|_| no_address(&raw.from)));
    let receivers: Result<Vec<lettre::message::Mailbox>, String> =
        raw.to.iter().map(|text| text.parse().map_err(|_| no_address(text))).collect();
    let receivers = receivers
        .and_then(|to| if to.is_empty() { Err("give at least one address".to_owned()) } else { Ok(to) });
    let to = notes.ok("alerts.email.to", receivers);
    Some(EmailConfig { smtp: smtp?, password: password?, tls, from: from?, to: to?.into_iter().collect() })
}

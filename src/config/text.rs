//! What is in force, for people: `spendguard check` and the admin API.

use std::fmt::Write as _;

use crate::config::{Settings, raw};
use crate::domain::Limit;
use crate::store::rule::LimitRule;

/// The JSON Schema of the configuration file.
pub fn schema() -> String {
    serde_json::to_string_pretty(&schemars::schema_for!(raw::Raw)).unwrap_or_default()
}

/// The resolved settings. A secret is only said to be set.
pub fn in_force(settings: &Settings) -> String {
    let set = |is_set: bool| if is_set { "(set)" } else { "(not set)" };
    let mut text = String::new();
    let s = settings;
    let mut line = |key: &str, value: String| {
        // Writing into a String can't fail.
        let _ = writeln!(text, "{key:<26} {value}");
    };
    line(
        "server.listen",
        format!("{}{}", s.server.listen, if s.server.tls.is_some() { " (TLS)" } else { "" }),
    );
    line("server.request_body_max", format!("{} bytes", s.server.request_body_bytes_max));
    line("server.connections_max", s.server.connections_max.to_string());
    line("server.idle_timeout", format!("{:?}", s.server.idle_timeout));
    line("server.cors_origins", s.server.cors.to_string());
    line("server.drain", format!("{:?}", s.server.drain));
    line("admin.listen", format!("{}{}", s.admin.listen, if s.admin.tls.is_some() { " (TLS)" } else { "" }));
    line("admin.hosts", list(&s.admin.hosts));
    line("admin.token", set(s.admin.token.is_some()).into());
    line("upstream.base_url", s.upstream.base_url.to_string());
    line("upstream.proxy", s.upstream.proxy.as_ref().map_or("none".into(), ToString::to_string));
    line("upstream.forward_headers", list(&s.upstream.forwarded));
    line("upstream.api_key", set(s.upstream.api_key.is_some()).into());
    line("keys.unknown", if s.pass_through { "pass-through" } else { "reject" }.into());
    line("storage.path", s.storage_path.display().to_string());
    line("storage.durability", format!("{:?}", s.durability).to_lowercase());
    line("time.zone", s.zone.to_string());
    line("pricing.sheet", if s.pricing.sheet.is_some() { "from a file" } else { "built-in" }.into());
    line("pricing.unknown_model", format!("{:?}", s.pricing.unknown_model).to_lowercase());
    line("pricing.region", s.pricing.region.clone().unwrap_or_else(|| "global".into()));
    line("guard.when_tight", if s.guard.clamp { "clamp" } else { "reject" }.into());
    line("guard.hold_wait", format!("{:?}", s.guard.hold_wait));
    line(
        "guard.on_disconnect",
        s.guard.drain.map_or("cancel".into(), |most| format!("drain, at most {most:?}")),
    );
    line("credit.mode", s.credit.mode.name().into());
    line("credit.minimum", s.credit.minimum.dollars());
    line("credit.low_balance", s.credit.low.dollars());
    line("organization.name", s.organization.clone().unwrap_or_else(|| "(not set)".into()));
    for (id, name) in &s.projects {
        line("project", format!("{id} ({name})"));
    }
    for price in &s.pricing.overrides {
        line("price", price.model.clone());
    }
    for limit in &s.limits {
        line("limit", limit_line(limit));
    }
    if let Some(email) = &s.alerts.email {
        line("alerts.email", email.to.to_string());
    }
    for webhook in &s.alerts.webhooks {
        // Its path may be a secret.
        line("alerts.webhook", webhook.url.host().unwrap_or_default().to_owned());
    }
    line("alerts.slack", set(!s.alerts.slacks.is_empty()).into());
    if s.limits.is_empty() {
        line("limit", "none: nothing is refused for its cost".into());
    }
    text
}

fn list(items: &[impl ToString]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

fn limit_line(limit: &Limit) -> String {
    let rule = LimitRule::of(limit);
    let mut text = format!("{}: per {}, {} a {}", limit.name, rule.per, rule.unit, rule.window);
    if let Some(hard) = limit.hard {
        text.push_str(&format!(", hard {}", limit.unit.phrase(hard)));
    }
    if !rule.soft.is_empty() {
        text.push_str(&format!(", soft {}", rule.soft.join(" ")));
    }
    text.push_str(&format!(", {}, {}", limit.zone, rule.mode));
    text
}

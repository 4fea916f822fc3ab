//! Converts settings into the configuration of each row.

use std::sync::Arc;

use http::{HeaderValue, Uri};
use jiff::tz::TimeZone;

use crate::admin::InForce;
use crate::app::StartError;
use crate::config::Settings;
use crate::net::Timeouts;
use crate::pricing::plan::Policy;
use crate::proxy::{Rules, admit, refuse};
use crate::upstream::{self, Upstream};

/// The time limit for the next part of a body, as a multiple of the time limit of a head.
const BODY_PATIENCE: u32 = 3;

/// The proxy's rules, and what the admin listener shows of them.
pub fn of(settings: &Settings, upstreams: Arc<[Arc<Upstream>]>) -> Result<(Rules, InForce), StartError> {
    let sheet = Arc::new(settings.pricing.sheet()?);
    let in_force = InForce {
        text: settings.text.clone(),
        zone: settings.zone.clone(),
        hosts: hosts(settings),
        keep: settings.keep,
        alerts_forecast: settings.alerts_forecast,
        sheet: Arc::clone(&sheet),
        sheet_file: settings.pricing.file.clone(),
    };
    let rules = Rules {
        request_body_bytes_max: settings.server.request_body_bytes_max,
        request_idle: settings.server.header_timeout * BODY_PATIENCE,
        answer_idle: settings.upstream.idle_timeout,
        upstreams,
        upstream_key: settings.upstream.api_key.as_ref().map(authorization).transpose()?,
        pass_through: settings.pass_through,
        allowed: settings.endpoints_allowed.clone(),
        shared_objects: settings.shared_objects,
        fetch_batch_files: settings.guard.fetch_batch_files,
        forwarded: settings.upstream.forwarded.clone(),
        tags: settings.tags.clone(),
        cors: settings.server.cors.clone(),
        admit: admit::Config {
            clamp: settings.guard.clamp,
            clamp_output_min: settings.guard.clamp_output_min,
            hold_wait: settings.guard.hold_wait,
            policy: Policy {
                output_default: settings.guard.output_default,
                tool_calls_max: settings.guard.tool_calls_max,
                tool_context_max: settings.guard.tool_context_max,
                tools_bound: settings.guard.tools_bound,
                project_tier: settings.pricing.default_tier,
            },
            stored_prompts: settings.guard.stored_prompts,
        },
        drain: settings.guard.drain,
        unknown_model: settings.pricing.unknown_model,
        zone: TimeZone::get(&settings.zone)?,
        refuse: refuse::Config {
            classic: settings.classic_codes,
            spend_status: settings.spend_status,
            show_amounts: settings.show_amounts,
        },
        sheet,
        tracer: None,
    };
    Ok((rules, in_force))
}

fn authorization(key: &crate::domain::Secret) -> Result<HeaderValue, StartError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose()))
        .map_err(|_| "upstream.api_key has characters that no header can carry")?;
    value.set_sensitive(true);
    Ok(value)
}

/// The names that the admin listener answers to: the configured ones, and the host
/// of the link in messages.
fn hosts(settings: &Settings) -> Vec<String> {
    let link = settings.alerts.branding.link.parse::<Uri>().ok();
    let linked = link.and_then(|link| link.host().map(str::to_ascii_lowercase));
    settings.admin.hosts.iter().cloned().chain(linked).collect()
}

/// The time limits of clients' connections.
pub fn timeouts(settings: &Settings) -> Timeouts {
    Timeouts { header: settings.server.header_timeout, idle: settings.server.idle_timeout }
}

/// So many pools of connections to upstream: the existing ones, if the new settings lead to the
/// same place in the same way.
pub fn upstreams(
    settings: &Settings,
    known: Option<(&Settings, &Arc<[Arc<Upstream>]>)>,
    count: usize,
    roots: &Arc<rustls::ClientConfig>,
) -> Arc<[Arc<Upstream>]> {
    let way = |of: &Settings| (upstream(of), of.upstream.proxy.clone());
    if let Some((_, pools)) = known.filter(|(before, _)| way(before) == way(settings)) {
        return Arc::clone(pools);
    }
    let (config, proxy) = way(settings);
    (0..count).map(|_| Arc::new(Upstream::through(proxy.as_ref(), &config, roots))).collect()
}

/// Where upstream is.
pub fn upstream(settings: &Settings) -> upstream::Config {
    upstream::Config {
        base_url: settings.upstream.base_url.clone(),
        connect_timeout: settings.upstream.connect_timeout,
        response_timeout: settings.upstream.response_timeout,
    }
}

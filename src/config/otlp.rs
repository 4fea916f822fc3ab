//! The export over OTLP: from the file to checked settings.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

use crate::config::edge;
use crate::config::problems::{Notes, base_url, secret};
use crate::config::raw::{Raw, SecretSource};
use crate::domain::Money;
use crate::telemetry::{Config, Ratio};

/// The least time between two exports of the metrics.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// The most spans that may wait: some 500 MB.
const QUEUE_MAX: usize = 1_000_000;

/// Where requests and metrics are exported to; within, `None` if nothing is.
#[expect(clippy::option_option, reason = "a mistake, nothing, and a collector are three")]
pub(super) fn otlp(
    raw: &Raw,
    environment: &HashMap<String, String>,
    notes: &mut Notes<'_>,
) -> Option<Option<Config>> {
    let raw = &raw.otlp;
    let endpoint = raw.endpoint.as_deref().map(endpoint).transpose();
    let endpoint = notes.ok("otlp.endpoint", endpoint);
    let proxy = match endpoint.as_ref().and_then(Option::as_ref) {
        Some(to) => notes.ok("otlp.endpoint", edge::proxy(None, to, environment)),
        None => Some(None),
    };
    let headers = headers(&raw.headers, environment, notes);
    let ratio = notes.ok("otlp.traces_ratio", ratio(&raw.traces_ratio));
    let interval = notes.duration("otlp.metrics_interval", &raw.metrics_interval);
    let interval = notes.ok("otlp.metrics_interval", interval.map_or(Ok(None), between));
    let timeout = notes.duration("otlp.timeout", &raw.timeout);
    let timeout = timeout.and_then(|timeout| {
        let positive = if timeout.is_zero() { Err("must be above zero".to_owned()) } else { Ok(timeout) };
        notes.ok("otlp.timeout", positive)
    });
    let queue = match raw.queue {
        1..=QUEUE_MAX => Ok(raw.queue),
        _ => Err(format!("must be 1 to {QUEUE_MAX}")),
    };
    let queue = notes.ok("otlp.queue", queue);
    let (proxy, headers, ratio) = (proxy?, headers?, ratio?);
    let (metrics_interval, timeout, queue) = (interval?, timeout?, queue?);
    let config = |endpoint| Config { endpoint, proxy, headers, ratio, metrics_interval, timeout, queue };
    Some(endpoint?.map(config))
}

fn endpoint(text: &str) -> Result<Uri, String> {
    let wrong = || "is no base URL; write it as \"http://127.0.0.1:4318\"".to_owned();
    let url = base_url(text).map_err(|_| wrong())?;
    let has_user = url.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if has_user || text.contains('#') {
        return Err("a base URL has no user, password or fragment; secrets belong to otlp.headers".to_owned());
    }
    if url.path().ends_with("/v1/traces") || url.path().ends_with("/v1/metrics") {
        return Err("leave out the path of the signal, which is appended".to_owned());
    }
    Ok(url)
}

fn headers(
    raw: &BTreeMap<String, SecretSource>,
    environment: &HashMap<String, String>,
    notes: &mut Notes<'_>,
) -> Option<HeaderMap> {
    let mut headers = Some(HeaderMap::new());
    for (name, source) in raw {
        let key = format!("otlp.headers.{name}");
        let header = notes.ok(&key, pair(name, source, environment));
        headers = headers.zip(header).map(|(mut headers, (name, value))| {
            headers.insert(name, value);
            headers
        });
    }
    headers
}

fn pair(
    name: &str,
    source: &SecretSource,
    environment: &HashMap<String, String>,
) -> Result<(HeaderName, HeaderValue), String> {
    let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "is no header's name".to_owned())?;
    let own = [header::HOST, header::CONTENT_LENGTH, header::CONTENT_TYPE, header::CONTENT_ENCODING];
    if own.contains(&header) || header == header::TRANSFER_ENCODING || header == header::CONNECTION {
        return Err("the guard writes this header itself".to_owned());
    }
    let value = secret(source, environment)?;
    let mut value = HeaderValue::from_str(value.expose())
        .map_err(|_| "its value has characters that no header can carry".to_owned())?;
    value.set_sensitive(true);
    Ok((header, value))
}

fn ratio(text: &str) -> Result<Ratio, String> {
    let wrong = || format!("{text:?} is no percentage; write it as \"100%\", \"12.5%\" or \"0%\"");
    let percent = text.trim().strip_suffix('%').ok_or_else(wrong)?;
    let percent: Money = percent.trim().parse().map_err(|_| wrong())?;
    let all = Money::from_nano(100 * 1_000_000_000);
    let some = u64::try_from(percent.nano()).ok().filter(|_| percent <= all).ok_or_else(wrong)?;
    Ok(Ratio::of(some, all.nano().unsigned_abs()))
}

fn between(interval: Duration) -> Result<Option<Duration>, String> {
    if interval > Duration::ZERO && interval < INTERVAL_MIN {
        return Err("must be \"1s\" at least, or \"0s\" for no metrics".to_owned());
    }
    Ok(Some(interval).filter(|interval| !interval.is_zero()))
}

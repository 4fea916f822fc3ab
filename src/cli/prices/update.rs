//! `spendguard prices update`: installs a new price sheet for the guard.
//!
//! The sheet is pinned by its SHA-256, read as the guard reads it, with the
//! configuration's overrides, and installed atomically: a running guard sees the old
//! sheet or the new one.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::cli::args::UpdateArgs;
use crate::cli::prices::{day_of, replace, usd};
use crate::cli::{Failure, Format, complain, say, table};
use crate::clock::Clock;
use crate::config::settings::Pricing;
use crate::config::{self, Settings};
use crate::domain::Class;
use crate::domain::demand::Tier;
use crate::pricing::sheet::{Change, Changes, FILE, Price, Sheet};
use crate::upstream::{self, Upstream, roots};

/// The largest sheet that is read; the built-in one is a fiftieth of that.
const SHEET_BYTES_MAX: usize = 8 << 20;
const TIMEOUT: Duration = Duration::from_secs(60);
/// Redirects that are followed: a release on GitHub has some.
const REDIRECTS_MAX: usize = 5;

/// The target of the update, and the sheet that the configuration has now.
struct Target {
    file: PathBuf,
    /// Whether the configuration reads the file.
    is_read: bool,
    settings: Settings,
    /// The sheet in force.
    before: Sheet,
}

pub(super) async fn update(args: &UpdateArgs, format: Format, config: Option<&Path>) -> Result<(), Failure> {
    let target = target(config)?;
    let bytes = read(&args.source, &target.settings).await?;
    let found = format!("{:x}", Bytes::copy_from_slice(&Sha256::digest(&bytes)));
    if !found.eq_ignore_ascii_case(&args.sha256) {
        return Err(refused(&format!("the SHA-256 of {} is {found}, not {}", args.source, args.sha256)));
    }
    let wrong = |why: &str| refused(&format!("{} is no price sheet: {why}", args.source));
    let text = std::str::from_utf8(&bytes).map_err(|error| wrong(&error.to_string()))?;
    let after = Sheet::parse(text, &[]).map_err(|error| wrong(&error.to_string()))?;
    if after.models(Clock::default().now_s()).is_empty() {
        return Err(wrong("it has no models"));
    }
    let pricing = Pricing { sheet: Some(text.to_owned()), ..target.settings.pricing.clone() };
    pricing.sheet().map_err(|error| wrong(&format!("with the configuration's prices over it, {error}")))?;
    if after.as_of_s() < target.before.as_of_s() && !args.older {
        return Err(refused(&format!(
            "the sheet is of {}, older than the one in force, of {}; --older takes it nevertheless",
            day(&after),
            day(&target.before)
        )));
    }
    replace::whole(&target.file, &bytes)
        .map_err(|error| refused(&format!("{} can't be written: {error}", target.file.display())))?;
    report(format, &target, &after);
    if !target.is_read {
        complain(&format!(
            "The configuration does not read this file yet. Set in it: [pricing] sheet = {:?}",
            target.file.display().to_string()
        ));
    }
    Ok(())
}

fn refused(why: &str) -> Failure {
    Failure::failed(format!("{why}; nothing was written"))
}

/// A broken or missing sheet must not prevent its replacement.
fn target(config: Option<&Path>) -> Result<Target, Failure> {
    let wrong = |error: config::ConfigError| Failure::wrong(error.to_string());
    let file = config::sheet_file(config, std::env::vars()).map_err(wrong)?;
    let built_in = ("SPENDGUARD_PRICING__SHEET".to_owned(), "built-in".to_owned());
    let settings = config::load(config, std::env::vars().chain([built_in])).map_err(wrong)?;
    let failed = |error: crate::pricing::sheet::SheetError| Failure::failed(error.to_string());
    let known = file.as_deref().and_then(|file| std::fs::read_to_string(file).ok());
    let known = known.and_then(|text| Sheet::parse(&text, &[]).ok());
    let before = known.map_or_else(|| Sheet::built_in(&[]), Ok).map_err(failed)?;
    let is_read = file.is_some();
    // A symbolic link is kept and leads to the new sheet.
    let file = file.map_or_else(
        || std::path::absolute(settings.storage_path.join(FILE)),
        |file| std::fs::canonicalize(&file).or(Ok(file)),
    );
    let file = file.map_err(|error| Failure::failed(format!("no place for the sheet: {error}")))?;
    Ok(Target { file, is_read, settings, before })
}

async fn read(source: &str, settings: &Settings) -> Result<Bytes, Failure> {
    if source.starts_with("http://") {
        return Err(Failure::wrong("a price sheet is fetched by https:// only"));
    }
    if source.starts_with("https://") {
        return fetch(source, settings).await.map_err(|why| refused(&format!("{source}: {why}")));
    }
    let mut bytes = Vec::new();
    let most = u64::try_from(SHEET_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let read = File::open(source).and_then(|file| file.take(most).read_to_end(&mut bytes));
    read.map_err(|error| refused(&format!("{source} can't be read: {error}")))?;
    if bytes.len() > SHEET_BYTES_MAX {
        return Err(refused(&format!("{source} is larger than {SHEET_BYTES_MAX} bytes")));
    }
    Ok(bytes.into())
}

/// Fetches a URL, and follows its redirects.
async fn fetch(source: &str, settings: &Settings) -> Result<Bytes, String> {
    let mut url: Uri = source.parse().map_err(|error| format!("{error}"))?;
    for _ in 0..=REDIRECTS_MAX {
        let answer = get(&url, settings).await?;
        let status = answer.status();
        if status == StatusCode::OK {
            let body = Limited::new(answer.into_body(), SHEET_BYTES_MAX).collect();
            let read =
                tokio::time::timeout(TIMEOUT, body).await.map_err(|_| "it came too slowly".to_owned())?;
            return Ok(read.map_err(|error| error.to_string())?.to_bytes());
        }
        let next = answer.headers().get(header::LOCATION).filter(|_| status.is_redirection());
        let Some(next) = next.and_then(|next| next.to_str().ok()) else {
            return Err(format!("it answered {status}"));
        };
        url = led_on(&url, next)?;
    }
    Err(format!("more than {REDIRECTS_MAX} redirects"))
}

async fn get(url: &Uri, settings: &Settings) -> Result<http::Response<upstream::AnswerBody>, String> {
    let path = url.path_and_query().map_or("/", PathAndQuery::as_str).to_owned();
    let mut origin = url.clone().into_parts();
    origin.path_and_query = Some(PathAndQuery::from_static("/"));
    let base_url = Uri::from_parts(origin).map_err(|error| error.to_string())?;
    let config = upstream::Config { base_url, connect_timeout: TIMEOUT, response_timeout: TIMEOUT };
    let way = config::way_to(url, settings, std::env::vars())?;
    let client = Upstream::through(way.as_ref(), &config, &roots());
    let agent = [(header::USER_AGENT, http::HeaderValue::from_static("spendguard"))];
    let sent = client.send(Method::GET, &path, HeaderMap::from_iter(agent), Bytes::new()).await;
    sent.map_err(|error| error.to_string())
}

/// The URL that a redirect names; one without a host is of the same host.
fn led_on(from: &Uri, to: &str) -> Result<Uri, String> {
    let to: Uri = to.parse().map_err(|_| format!("redirects to {to:?}, which is not a valid URL"))?;
    match (to.scheme(), to.host()) {
        (Some(scheme), Some(_)) if *scheme == Scheme::HTTPS => Ok(to),
        (None, None) => {
            let mut parts = from.clone().into_parts();
            parts.path_and_query = to.into_parts().path_and_query;
            Uri::from_parts(parts).map_err(|error| error.to_string())
        }
        _ => Err(format!("redirects to {to}; only https:// is followed")),
    }
}

fn day(sheet: &Sheet) -> String {
    day_of(sheet.as_of_s())
}

/// Prints what the new sheet changes.
fn report(format: Format, target: &Target, after: &Sheet) {
    let now_s = Clock::default().now_s();
    let Target { file, is_read, before, .. } = target;
    let Changes { new, removed, changed } = before.changes(after, now_s);
    let named =
        |prices: &[std::sync::Arc<Price>]| prices.iter().map(|price| shown(price)).collect::<Vec<_>>();
    let sheet = |sheet: &Sheet| json!({ "as_of": day(sheet), "models": sheet.models(now_s).len() });
    let change = |Change { before, after }: &Change| json!({ "model": *after.id, "before": shown(before), "after": shown(after) });
    let answer = json!({
        "object": "guard.price_update",
        "file": file,
        "is_read": is_read,
        "before": sheet(before),
        "after": sheet(after),
        "new": named(&new),
        "removed": named(&removed),
        "changed": changed.iter().map(change).collect::<Vec<_>>(),
    });
    if table::programs(format, &answer) {
        return;
    }
    let of = |sheet: &Value| {
        format!("{} ({} models)", sheet["as_of"].as_str().unwrap_or_default(), sheet["models"])
    };
    say(&format!("price sheet of {} → {}", of(&answer["before"]), of(&answer["after"])));
    for (what, prices) in [("new    ", &new), ("removed", &removed)] {
        for price in prices {
            say(&format!("{what}  {}: {}", price.id, rates(price)));
        }
    }
    for Change { before, after } in &changed {
        let (old, new) = (rates(before), rates(after));
        let what = if old == new {
            format!("{new}, and other facts or later dates")
        } else {
            format!("{old} → {new}")
        };
        say(&format!("changed  {}: {what}", after.id));
    }
    say(&format!("written to {}", file.display()));
}

fn shown(price: &Price) -> Value {
    let rates = price.rates(Tier::Standard, 0);
    json!({ "model": *price.id, "input": usd(rates[Class::Input]), "output": usd(rates[Class::Output]) })
}

/// The standard rates in dollars per million tokens.
fn rates(price: &Price) -> String {
    let rates = price.rates(Tier::Standard, 0);
    format!("{} in, {} out", usd(rates[Class::Input]), usd(rates[Class::Output]))
}

//! Reads a configuration: file and environment into settings, or every mistake with
//! its place and remedy.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::Method;

use crate::config::alerts::alerts;
use crate::config::database::database;
use crate::config::limits::{Problem, limits, prices};
use crate::config::otlp::otlp;
use crate::config::place::Place;
use crate::config::pricing::pricing;
use crate::config::problems::{ConfigError, DEFAULT_ADMIN_TOKEN, DEFAULT_UPSTREAM_KEY, Notes, secret};
use crate::config::raw::{Amount, Raw};
use crate::config::settings::{Admin, Guard, Server, Settings, TlsFiles, Upstream};
use crate::config::tags::tags;
use crate::config::{edge, fuses};
use crate::config::{text, units};
use crate::domain::limit::Mode;
use crate::domain::{Limit, Money, Secret};
use crate::ledger::account::Terms;
use crate::pricing::bound::ToolsBound;
use crate::protocol::openai::endpoint::{Remedy, classify, is_misspelt, reason};
use crate::proxy::refuse::SpendStatus;
use crate::store::Durability;

/// The least value of `storage.keep`.
const KEEP_MIN: Duration = Duration::from_secs(86_400);

/// The settings of a file, or of none, under an environment.
pub fn load(
    path: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Settings, ConfigError> {
    let environment: HashMap<String, String> = environment.into_iter().collect();
    let place = Place::of(path)?;
    let raw = place.read(&environment)?;
    let mut problems = Vec::new();
    let settings = resolve(&raw, &environment, &mut problems);
    match settings {
        Some(settings) if problems.is_empty() => Ok(settings),
        _ => Err(ConfigError {
            lines: problems.iter().map(|problem| place.line(problem, &environment)).collect(),
        }),
    }
}

/// The limits of a file, whatever else is in it.
pub fn limits_of(
    path: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Vec<Arc<Limit>>, ConfigError> {
    let environment: HashMap<String, String> = environment.into_iter().collect();
    let place = Place::of(Some(path))?;
    let raw = place.read(&environment)?;
    let mut problems = Vec::new();
    let limits = limits(&raw.limit, &raw.time.zone, &mut problems);
    if limits.is_empty() && problems.is_empty() {
        problems.push(("limit".to_owned(), "there is no [[limit]] in this file".to_owned()));
    }
    if problems.is_empty() {
        return Ok(limits);
    }
    Err(ConfigError { lines: problems.iter().map(|problem| place.line(problem, &environment)).collect() })
}

/// The file that a configuration reads its price sheet from, whatever its content;
/// `None` if it uses the built-in sheet.
pub fn sheet_file(
    path: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Option<PathBuf>, ConfigError> {
    let environment: HashMap<String, String> = environment.into_iter().collect();
    let raw = Place::of(path)?.read(&environment)?;
    Ok(sheet_of(&raw).map(PathBuf::from))
}

fn resolve(
    raw: &Raw,
    environment: &HashMap<String, String>,
    problems: &mut Vec<Problem>,
) -> Option<Settings> {
    let (limits, fuses) = (limits(&raw.limit, &raw.time.zone, problems), fuses::of(&raw.fuse, problems));
    let overrides = prices(&raw.price, problems);
    let mut notes = Notes::new(problems);
    let zone = jiff::tz::TimeZone::get(&raw.time.zone).map(|_| raw.time.zone.as_str().into());
    let zone = notes
        .ok("time.zone", zone.map_err(|_| "no such IANA time zone; write it as \"Europe/Warsaw\"".into()));
    let upstream = upstream(raw, environment, &mut notes);
    let has_key = upstream.as_ref().is_some_and(|upstream| upstream.api_key.is_some());
    let pass_through = pass_through(raw, has_key, &mut notes);
    let (projects, tags) = (projects(raw, &mut notes), tags(&raw.tags, &mut notes));
    let levels = ["error", "warn", "info", "debug", "trace"].map(|level| (level, ()));
    let durability = [("process", Durability::Process), ("power", Durability::Power)];
    let (server, admin) = (server(raw, &mut notes), admin(raw, environment, &mut notes));
    let base_url = upstream.as_ref().map(|upstream| &upstream.base_url);
    let (pricing, guard) = (pricing(raw, overrides, base_url, &mut notes), guard(raw, &mut notes));
    let durability = notes.one_of("storage.durability", &raw.storage.durability, &durability);
    let database = database(raw, environment, &mut notes);
    let keep = notes.ok("storage.keep", raw.storage.keep.as_deref().map(keep).transpose());
    let spend_status = notes.ok("errors.spend_status", spend_status(raw.errors.spend_status));
    let classic = notes.one_of("errors.code", &raw.errors.code, &[("openai", false), ("classic", true)]);
    let log_json = notes.one_of("log.format", &raw.log.format, &[("text", false), ("json", true)]);
    let level = notes.one_of("log.level", &raw.log.level, &levels);
    let endpoints_allowed = allowed(raw, &mut notes);
    let (credit, otlp) = (credit(raw, &mut notes), otlp(raw, environment, &mut notes));
    let alerts = alerts(raw, &dashboard(raw), environment, &mut notes);
    level?;
    let pricing = pricing?;
    let proxy = upstream.as_ref().and_then(|upstream| upstream.proxy.as_ref());
    let text = text::in_force(raw, pass_through?, proxy, pricing.region.as_deref(), environment);
    Some(Settings {
        text,
        server: server?,
        admin: admin?,
        upstream: upstream?,
        pass_through: pass_through?,
        storage_path: raw.storage.path.clone().into(),
        database: database?,
        durability: durability?,
        keep: keep?,
        zone: zone?,
        pricing,
        files: files(raw),
        guard: guard?,
        credit: credit?,
        classic_codes: classic?,
        spend_status: spend_status?,
        show_amounts: raw.errors.show_amounts,
        endpoints_allowed: endpoints_allowed?,
        shared_objects: raw.endpoints.shared_objects,
        tags: tags?,
        log_json: log_json?,
        log_level: raw.log.level.clone(),
        otlp: otlp?.map(Arc::new),
        organization: raw.organization.name.clone(),
        projects,
        limits,
        fuses,
        alerts: alerts?,
        alerts_forecast: raw.alerts.forecast,
    })
}

/// The address of the dashboard.
fn dashboard(raw: &Raw) -> String {
    let scheme = if raw.admin.tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{}/", raw.admin.listen)
}

/// Whether clients may send their own keys; it follows from whether the guard has one.
fn pass_through(raw: &Raw, has_key: bool, notes: &mut Notes<'_>) -> Option<bool> {
    let pass_through = match raw.keys.unknown.as_deref() {
        None => Some(!has_key),
        Some(text) => notes.one_of("keys.unknown", text, &[("reject", false), ("pass-through", true)]),
    };
    if pass_through == Some(false) && !has_key {
        let problem =
            "rejecting unknown keys needs upstream.api_key: without it only clients' own keys can work";
        notes.note("keys.unknown", problem.into());
    }
    pass_through
}

/// How long entries are kept: a day at least.
fn keep(text: &str) -> Result<Duration, String> {
    let keep = units::duration(text)?;
    if keep < KEEP_MIN {
        return Err(format!(
            "{text:?} is too short; entries of the last day are needed, so keep \"1d\" at least"
        ));
    }
    Ok(keep)
}

fn server(raw: &Raw, notes: &mut Notes<'_>) -> Option<Server> {
    let raw = &raw.server;
    let listen = address(notes, "server.listen", &raw.listen);
    let body = notes.ok("server.request_body_max", units::bytes(&raw.request_body_max));
    let header_timeout = notes.duration("server.header_timeout", &raw.header_timeout);
    let idle_timeout = notes.duration("server.idle_timeout", &raw.idle_timeout);
    let cors = notes.ok("server.cors_origins", edge::origins(&raw.cors_origins));
    let drain = notes.duration("server.drain", &raw.drain);
    let positive =
        if raw.connections_max > 0 { Ok(raw.connections_max) } else { Err("must be above zero".into()) };
    Some(Server {
        listen: listen?,
        tls: raw.tls.as_ref().map(tls),
        request_body_bytes_max: body?,
        connections_max: notes.ok("server.connections_max", positive)?,
        header_timeout: header_timeout?,
        idle_timeout: idle_timeout?,
        cors: cors?,
        drain: drain?,
    })
}

fn address(notes: &mut Notes<'_>, key: &str, text: &str) -> Option<std::net::SocketAddr> {
    let wrong = |_| format!("{text:?} is no address with a port; write it as \"127.0.0.1:8080\"");
    notes.ok(key, text.parse().map_err(wrong))
}

fn tls(raw: &crate::config::raw::TlsFiles) -> TlsFiles {
    TlsFiles { cert: raw.cert.clone().into(), key: raw.key.clone().into() }
}

fn admin(raw: &Raw, environment: &HashMap<String, String>, notes: &mut Notes<'_>) -> Option<Admin> {
    let listen = address(notes, "admin.listen", &raw.admin.listen);
    let token = match &raw.admin.token {
        Some(source) => notes.ok("admin.token", secret(source, environment)).map(Some),
        None => Some(environment.get(DEFAULT_ADMIN_TOKEN).map(|text| Secret::new(text.trim()))),
    };
    let token = token?;
    if token.as_ref().is_some_and(|token| token.expose().len() < 16) {
        notes.note("admin.token", "a token needs at least 16 characters".into());
    }
    let hosts = notes.ok("admin.hosts", edge::hosts(&raw.admin.hosts))?;
    Some(Admin { listen: listen?, tls: raw.admin.tls.as_ref().map(tls), hosts, token })
}

fn upstream(raw: &Raw, environment: &HashMap<String, String>, notes: &mut Notes<'_>) -> Option<Upstream> {
    let raw = &raw.upstream;
    let base_url = notes.ok("upstream.base_url", edge::upstream_url(&raw.base_url));
    let proxy = base_url
        .as_ref()
        .and_then(|to| notes.ok("upstream.proxy", edge::proxy(raw.proxy.as_deref(), to, environment)));
    let forwarded = notes.ok("upstream.forward_headers", edge::forwarded(&raw.forward_headers));
    let api_key = match &raw.api_key {
        Some(source) if source.env.as_deref() == Some(DEFAULT_UPSTREAM_KEY) && source.file.is_none() => {
            Some(environment.get(DEFAULT_UPSTREAM_KEY).map(|text| Secret::new(text.trim())))
        }
        Some(source) => notes.ok("upstream.api_key", secret(source, environment)).map(Some),
        None => Some(environment.get(DEFAULT_UPSTREAM_KEY).map(|text| Secret::new(text.trim()))),
    };
    let connect = notes.duration("upstream.connect_timeout", &raw.connect_timeout);
    let response = notes.duration("upstream.response_timeout", &raw.response_timeout);
    let idle = notes.duration("upstream.idle_timeout", &raw.idle_timeout);
    Some(Upstream {
        base_url: base_url?,
        api_key: api_key?.filter(|key| !key.expose().is_empty()),
        connect_timeout: connect?,
        response_timeout: response?,
        idle_timeout: idle?,
        proxy: proxy?,
        forwarded: forwarded?,
    })
}

/// The files that values are read from, beside the configuration and certificates.
fn files(raw: &Raw) -> Vec<PathBuf> {
    let alerts = &raw.alerts;
    let secrets = [&raw.upstream.api_key, &raw.admin.token, &raw.storage.url].into_iter().flatten();
    let secrets = secrets.chain(alerts.email.iter().flat_map(|email| &email.password));
    let secrets = secrets.chain(alerts.webhook.iter().map(|webhook| &webhook.secret));
    let secrets = secrets.chain(alerts.slack.iter().map(|slack| &slack.url));
    let secrets = secrets.chain(raw.otlp.headers.values());
    secrets.filter_map(|source| source.file.as_deref()).chain(sheet_of(raw)).map(PathBuf::from).collect()
}

fn sheet_of(raw: &Raw) -> Option<&str> {
    Some(raw.pricing.sheet.as_str()).filter(|sheet| *sheet != "built-in")
}

fn guard(raw: &Raw, notes: &mut Notes<'_>) -> Option<Guard> {
    let raw = &raw.guard;
    let clamp = notes.one_of("guard.when_tight", &raw.when_tight, &[("clamp", true), ("reject", false)]);
    let hold_wait = notes.duration("guard.hold_wait", &raw.hold_wait);
    let drains =
        notes.one_of("guard.on_disconnect", &raw.on_disconnect, &[("drain", true), ("cancel", false)]);
    let drain_max = notes.duration("guard.drain_max", &raw.drain_max);
    let bounds = [("practical", ToolsBound::Practical), ("strict", ToolsBound::Strict)];
    let tools_bound = notes.one_of("guard.tools_bound", &raw.tools_bound, &bounds);
    let stored = [("refuse", false), ("allow", true)];
    let stored_prompts = notes.one_of("guard.stored_prompts", &raw.stored_prompts, &stored);
    let open =
        if raw.open_requests_max > 0 { Ok(raw.open_requests_max) } else { Err("must be above zero".into()) };
    Some(Guard {
        clamp: clamp?,
        clamp_output_min: raw.clamp_output_min,
        hold_wait: hold_wait?,
        drain: drain_max.filter(|_| drains == Some(true)),
        output_default: raw.output_default,
        tool_calls_max: raw.tool_calls_max,
        tool_context_max: raw.tool_context_max,
        tools_bound: tools_bound?,
        stored_prompts: stored_prompts?,
        fetch_batch_files: raw.fetch_batch_files,
        open_requests_max: notes.ok("guard.open_requests_max", open)?,
    })
}

fn spend_status(status: u16) -> Result<SpendStatus, String> {
    let known = SpendStatus::ALL.into_iter().find(|(known, _)| *known == status);
    known.map(|(_, known)| known).ok_or_else(|| format!("{status} is not one of 429, 402 and 400"))
}

fn credit(raw: &Raw, notes: &mut Notes<'_>) -> Option<Terms> {
    let raw = &raw.credit;
    let mut amount = |key: &str, amount: &Amount| {
        let parsed = amount.text().parse::<Money>().map_err(|error| error.to_string());
        let positive = parsed
            .and_then(|usd| if usd < Money::ZERO { Err("must not be negative".to_owned()) } else { Ok(usd) });
        notes.ok(key, positive)
    };
    let minimum = amount("credit.minimum", &raw.minimum);
    let low = amount("credit.low_balance", &raw.low_balance);
    let modes = [Mode::Enforce, Mode::Shadow].map(|mode| (mode.name(), mode));
    let mode = notes.one_of("credit.mode", &raw.mode, &modes);
    Some(Terms { mode: mode?, low: low?, minimum: minimum? })
}

fn projects(raw: &Raw, notes: &mut Notes<'_>) -> Vec<(String, String)> {
    let mut projects: Vec<(String, String)> = Vec::new();
    for (at, project) in raw.project.iter().enumerate() {
        if projects.iter().any(|(id, _)| *id == project.id) {
            notes.note(&format!("project[{at}].id"), "another project has this id; ids are unique".into());
        }
        if project.id.is_empty() || project.id.len() > 64 || project.name.is_empty() {
            notes.note(
                &format!("project[{at}].id"),
                "a project needs an id of 1 to 64 characters and a name".into(),
            );
        }
        projects.push((project.id.clone(), project.name.clone()));
    }
    projects
}

fn allowed(raw: &Raw, notes: &mut Notes<'_>) -> Option<Vec<(Method, String)>> {
    let entry = |text: &String| {
        let (method, path) = text.split_once(' ')?;
        let method = method.parse::<Method>().ok()?;
        let is_path = path.starts_with('/') && !path.contains(char::is_whitespace);
        is_path.then(|| (method, path.to_owned()))
    };
    let entries: Option<Vec<_>> = raw.endpoints.allow.iter().map(entry).collect();
    for (method, path) in entries.iter().flatten() {
        if let Some(problem) = unopenable(method, path) {
            notes.note("endpoints.allow", format!("\"{method} {path}\" {problem}"));
        }
    }
    notes.ok(
        "endpoints.allow",
        entries.ok_or_else(|| "write each as \"POST /v1/files\"; {} stands for an id".to_owned()),
    )
}

/// Why an entry of `endpoints.allow` is refused: it is another spelling of a path that is
/// served already, or it would lead past every limit.
fn unopenable(method: &Method, path: &str) -> Option<String> {
    if classify(method, path).is_none() && is_misspelt(method, path) {
        let problem = "looks like an endpoint that is metered or free already, and is no path of OpenAI's: \
                       a client that asks for it needs another base URL, http://ADDRESS/v1";
        return Some(problem.to_owned());
    }
    let reason = reason(method, &path.replace("{}", "id"));
    (reason.remedy == Remedy::Never).then(|| format!("can't be forwarded unmetered. {reason}"))
}

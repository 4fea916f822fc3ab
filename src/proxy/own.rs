//! Self-service: a key's own limits, and the old billing endpoints that chat
//! front-ends still call.

mod usage;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header, request};
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::domain::demand::Labels;
use crate::domain::limit::{Mode, Unit};
use crate::domain::{Limit, Money, Span, Stop, Window};
use crate::guard::{Guard, RateCheck};
use crate::keys::Key;
use crate::ledger::account::{Balance, GrantReading};
use crate::ledger::entry::{Attribution, Tags, grant_id};
use crate::ledger::meter::Reading;
use crate::metrics::dollars;
use crate::protocol::openai::endpoint::SelfService;
use crate::proxy::answer::Answer;
use crate::proxy::auth::Caller;
use crate::proxy::headers;
use crate::proxy::in_flight::InFlight;
use crate::proxy::refuse::Refusal;
use crate::proxy::{Failed, Proxy, Rules, rate_headers};
use crate::rulebook::Rulebook;
use crate::rulebook::credit::Credit;

/// The value that front-ends treat as "no limit": they ignore limits from ten million up.
const NO_LIMIT: Money = Money::from_nano(100_000_000 * 1_000_000_000);

/// How many grants are listed, the newest first.
const GRANTS_SHOWN: usize = 100;

/// The answer at the address itself.
pub(super) const ROOT: &str = concat!(
    r#"{"object":"guard","name":"spendguard","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#"","message":"spendguard, a spend guard in front of the OpenAI API. Point OPENAI_BASE_URL at this address with /v1."}"#
);

impl Proxy {
    /// Answers one of the guard's own endpoints.
    pub(super) async fn answer_own(
        &self,
        rules: &Rules,
        own: SelfService,
        (head, caller): (&request::Parts, &Caller),
        in_flight: InFlight,
    ) -> Result<Response<Answer>, Failed> {
        match self.own(rules, own, &caller.key, head).await {
            Ok((bytes, rate_check)) => Ok(json(bytes, &rate_check, in_flight)),
            Err(refusal) => Err((refusal, in_flight)),
        }
    }

    /// Answers one of the guard's own endpoints as JSON. It counts against rate
    /// limits like any request.
    async fn own(
        &self,
        rules: &Rules,
        own: SelfService,
        key: &Key,
        head: &request::Parts,
    ) -> Result<(Bytes, RateCheck), Refusal> {
        let of = attribution(&self.guard, key, tags(rules, &head.headers)?);
        let rate_check = self.guard.pace(&of).await?;
        let _open = self.guard.question(&key.id).await.ok_or(Refusal::Busy)?;
        self.guard.core().see_whole().await;
        let query = head.uri.query().unwrap_or_default();
        Ok((self.own_answer(own, key, &of, (query, &rules.zone)).await?, rate_check))
    }

    async fn own_answer(
        &self,
        own: SelfService,
        key: &Key,
        of: &Attribution,
        (query, zone): (&str, &TimeZone),
    ) -> Result<Bytes, Refusal> {
        let readings = self.guard.matching(of);
        let body = match own {
            SelfService::Root => return Ok(ROOT.into()),
            SelfService::Me => {
                let now_ms = self.guard.clock().now_ms();
                let stops = self.guard.ring().stops().all_on(&key.project, &key.id, now_ms);
                me(&self.opened.rulebook, key, &readings, &stops)
            }
            SelfService::BillingSubscription => subscription(&readings),
            SelfService::Usage => {
                let now_s = self.guard.clock().now_s();
                usage::by_day_and_model(&self.opened.reports, key, query, (zone, now_s)).await?
            }
            SelfService::BillingUsage => usage::billing(&self.opened.reports, key, query).await?,
            SelfService::BillingCreditGrants => grants(&self.opened.rulebook, &readings),
        };
        Ok(Bytes::from(body.to_string()))
    }
}

pub(super) fn json(bytes: Bytes, rate_check: &RateCheck, mut in_flight: InFlight) -> Response<Answer> {
    let mut response = Response::new(Answer::whole(bytes));
    response.headers_mut().extend(rate_headers(rate_check));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    in_flight.status = 200;
    in_flight.ended("ok");
    response
}

/// The tags of a request whose body has none.
pub(super) fn tags(rules: &Rules, headers: &HeaderMap) -> Result<Tags, Refusal> {
    let own = headers::guard_headers(headers)?.tags;
    Ok(rules.tags.tags(own, headers, &Labels::default()))
}

pub(super) fn attribution(guard: &Guard, key: &Key, tags: Tags) -> Attribution {
    Attribution {
        project: Arc::clone(&key.project),
        project_name: guard.ring().project_name(&key.project),
        key: Arc::clone(&key.id),
        key_name: Arc::clone(&key.name),
        end_user: None,
        tags: Arc::new(tags),
        endpoint: "".into(),
        model: "".into(),
        priced_as: None,
        image_model: None,
    }
}

type Readings = [(Arc<Limit>, Reading)];

/// Prepaid credit, if requests are refused without it.
fn prepaid(rulebook: &Rulebook) -> Option<Credit> {
    rulebook.credit().filter(|credit| credit.mode == Mode::Enforce)
}

fn me(rulebook: &Rulebook, key: &Key, readings: &Readings, stops: &[Arc<Stop>]) -> Value {
    let stop = |stop: &Arc<Stop>| {
        json!({
            "kind": stop.kind(),
            "subject": stop.spender.label(),
            "fuse": stop.fuse().map(|name| &**name),
            "since": stop.since_ms.div_euclid(1_000),
            "until": stop.until_ms.map(|until_ms| until_ms.div_euclid(1_000)),
        })
    };
    let limit = |(limit, reading): &(Arc<Limit>, Reading)| {
        let decimal = |amount: i64| limit.unit.decimal(amount);
        let meter = reading.meter;
        let remaining = limit.hard.map(|hard| decimal((hard - meter.settled - meter.held).max(0)));
        json!({
            "name": *limit.name,
            "unit": limit.unit.name(),
            "window": limit.window.name(),
            "settled": decimal(meter.settled),
            "held": decimal(meter.held),
            "hard": limit.hard.map(decimal),
            "remaining": remaining,
            "resets_at": resets_at(limit, reading.span),
        })
    };
    let is_enforced = rulebook.credit_terms().mode == Mode::Enforce;
    let balance = rulebook.credit_balance().filter(|_| is_enforced);
    json!({
        "object": "guard.me",
        "key": { "id": *key.id, "name": *key.name, "project_id": *key.project },
        "limits": readings.iter().map(limit).collect::<Vec<_>>(),
        "stops": stops.iter().map(stop).collect::<Vec<_>>(),
        "credit_balance_usd": balance.map(|balance| balance.left().to_string()),
    })
}

fn resets_at(limit: &Limit, span: Span) -> Option<i64> {
    (!matches!(limit.window, Window::Total | Window::Request)).then_some(span.end_s)
}

/// The tightest dollar cap that has a window: its cap and what is used of it.
fn tightest(readings: &Readings) -> Option<(&Limit, Reading, Money)> {
    let capped = |(limit, reading): &'_ (Arc<Limit>, Reading)| {
        let hard = limit.hard.filter(|_| limit.unit == Unit::Usd && limit.window != Window::Request)?;
        Some((hard - reading.meter.settled - reading.meter.held, hard))
    };
    let rooms = readings.iter().filter_map(|pair| capped(pair).map(|(room, hard)| (room, hard, pair)));
    let (_, hard, (limit, reading)) = rooms.min_by_key(|(room, ..)| *room)?;
    Some((limit, reading.clone(), Money::from_nano(hard)))
}

fn subscription(readings: &Readings) -> Value {
    let tight = tightest(readings);
    let hard = dollars(tight.as_ref().map_or(NO_LIMIT, |(_, _, hard)| *hard));
    let first_soft = tight.as_ref().and_then(|(limit, ..)| limit.thresholds().first().copied());
    let soft = first_soft.map_or(hard, |soft| dollars(Money::from_nano(soft)));
    json!({
        "object": "billing_subscription",
        "has_payment_method": true,
        "canceled": false,
        "canceled_at": null,
        "delinquent": null,
        "access_until": 0,
        "soft_limit_usd": soft,
        "hard_limit_usd": hard,
        "system_hard_limit_usd": hard,
        "plan": { "title": "spendguard", "id": "spendguard" },
    })
}

/// Prepaid credit, or the tightest dollar cap in its place if that leaves less.
fn grants(rulebook: &Rulebook, readings: &Readings) -> Value {
    let capped = tightest(readings).map(|(_, reading, hard)| {
        let used = Money::from_nano(reading.meter.settled.saturating_add(reading.meter.held));
        (hard, (hard - used).max(Money::ZERO))
    });
    let credit = prepaid(rulebook).map(|credit| {
        let Balance { granted, expired, available, .. } = credit.balance;
        ((granted - expired, available.max(Money::ZERO)), credit.grants)
    });
    let (granted, left, grants) = match (credit, capped) {
        (Some(((granted, left), grants)), None) => (granted, left, grants),
        (Some(((granted, left), grants)), Some((_, room))) if left <= room => (granted, left, grants),
        (_, Some((hard, room))) => (hard, room, Vec::new()),
        (None, None) => (NO_LIMIT, NO_LIMIT, Vec::new()),
    };
    let grant = |reading: &GrantReading| {
        json!({
            "object": "credit_grant",
            "id": grant_id(reading.grant.id),
            "grant_amount": dollars(reading.grant.amount),
            "used_amount": dollars(reading.used),
            "effective_at": reading.grant.created_ms.div_euclid(1_000),
            "expires_at": reading.grant.expires_s,
        })
    };
    json!({
        "object": "credit_summary",
        "total_granted": dollars(granted),
        "total_used": dollars(granted - left),
        "total_available": dollars(left),
        "grants": { "object": "list", "data": grants.iter().rev().take(GRANTS_SHOWN).map(grant).collect::<Vec<_>>() },
    })
}

//! The ledger's work for one request: decide and hold, then settle, on one core.

#![expect(clippy::unwrap_used, reason = "a benchmark that can't go on has failed")]

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use spendguard::domain::demand::Bound;
use spendguard::domain::limit::{Mode, Only, Per, Soft, Source, Unit};
use spendguard::domain::{Class, Limit, Money, Quantities, Window};
use spendguard::ledger::entry::{Attribution, Basis, Entry, Hold, Kind};
use spendguard::ledger::{Circumstances, Ledger, Past, ReserveRequest};

const AT_MS: i64 = 1_795_000_000_000;

fn limit(name: &str, per: Per, unit: Unit, window: Window) -> Arc<Limit> {
    Arc::new(Limit {
        name: name.into(),
        per,
        only: Only::default(),
        unit,
        window,
        zone: "Europe/Warsaw".into(),
        soft: vec![Soft::Percent(50), Soft::Percent(80)],
        hard: Some(i64::MAX / 2),
        mode: Mode::Enforce,
        source: Source::File,
    })
}

fn ledger() -> Ledger {
    let limits = [
        limit("org-month", Per::Organization, Unit::Usd, Window::Month),
        limit("project-day", Per::Project, Unit::Usd, Window::Day),
        limit("key-tokens-hour", Per::Key, Unit::Tokens, Window::Hour),
    ];
    let mut ledger = Ledger::new(1);
    let past = ledger.stage(&limits, AT_MS).iter().map(|backfill| backfill.history(Past::new())).collect();
    ledger.install(&limits, past);
    ledger
}

fn attribution(key: usize) -> Arc<Attribution> {
    Arc::new(Attribution {
        project: "default".into(),
        project_name: "default".into(),
        key: format!("key_{key:020}").into(),
        key_name: "a key".into(),
        end_user: None,
        tags: Arc::default(),
        endpoint: "/v1/chat/completions".into(),
        model: "gpt-5".into(),
        priced_as: Some("gpt-5".into()),
        image_model: None,
    })
}

fn settled(hold: &Hold) -> Entry {
    Entry {
        cost: Money::from_nano(1_500),
        quantities: Quantities::from([(Class::Input, 100), (Class::Output, 20)]),
        basis: Some(Basis::Reported),
        status: 200,
        duration_ms: 900,
        ttft_ms: Some(300),
        ..Entry::ending(hold, Kind::Settle, AT_MS)
    }
}

fn reserve_and_settle(c: &mut Criterion) {
    let mut group = c.benchmark_group("reserve_and_settle");
    group.throughput(Throughput::Elements(1));
    for keys in [10, 100_000] {
        let (mut ledger, callers) = (ledger(), (0..keys).map(attribution).collect::<Vec<_>>());
        let price_version: Arc<str> = "2026-11-21".into();
        let bound = Bound { cost: Money::from_nano(9_000), input_tokens: 200, output_tokens: 100 };
        let circumstances = Circumstances { at_ms: AT_MS, ..Circumstances::default() };
        let mut turn = callers.iter().cycle();
        group.bench_function(format!("three limits, {keys} keys"), |b| {
            b.iter(|| {
                let attribution = Arc::clone(turn.next().unwrap());
                let price_version = Arc::clone(&price_version);
                let request = ReserveRequest { price_version, ..ReserveRequest::new(attribution, bound) };
                let (hold, _) = ledger.admit(request, &circumstances).unwrap();
                ledger.apply(&settled(&hold))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, reserve_and_settle);
criterion_main!(benches);

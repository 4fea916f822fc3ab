//! What it takes until holds are in the database, alone and in groups.

#![expect(clippy::unwrap_used, reason = "a benchmark that can't go on has failed")]

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use spendguard::domain::Money;
use spendguard::domain::demand::{Bound, Tier};
use spendguard::guard::{Ending, Guard, ReserveRequest};
use spendguard::ledger::entry::{Attribution, Basis};
use spendguard::startup;
use spendguard::store::{Durability, Store};

fn request() -> ReserveRequest {
    ReserveRequest {
        attribution: Arc::new(Attribution {
            project: "default".into(),
            project_name: "default".into(),
            key: "key_0123456789".into(),
            key_name: "a key".into(),
            end_user: None,
            tags: Arc::default(),
            endpoint: "/v1/chat/completions".into(),
            model: "gpt-5".into(),
            priced_as: Some("gpt-5".into()),
            image_model: None,
        }),
        bound: Bound { cost: Money::from_nano(9_000), input_tokens: 200, output_tokens: 100 },
        is_priced: true,
        client_cap: None,
        tier: Tier::default(),
        price_version: "2026-11-21".into(),
        stream: false,
        rules_version: 0,
    }
}

fn commits(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut group = c.benchmark_group("ledger");
    for durability in [Durability::Process, Durability::Power] {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), durability).unwrap();
        let config = startup::Config { open_requests_max: 1_000, zone: "UTC".into() };
        let (opened, writer) = startup::open(store, &config, Arc::default(), Arc::default()).unwrap();
        writer.start().unwrap();
        for at_once in [1_u64, 64] {
            group.throughput(Throughput::Elements(at_once));
            group.bench_function(format!("reserve and settle, {at_once} at once, {durability:?}"), |b| {
                b.iter(|| runtime.block_on(round(&opened.guard, at_once)));
            });
        }
    }
    group.finish();
}

/// So many requests at once, from reservation to settlement.
async fn round(guard: &Arc<Guard>, at_once: u64) {
    let tasks = tokio::task::LocalSet::new();
    for _ in 0..at_once {
        let guard = Arc::clone(guard);
        tasks.spawn_local(async move {
            let reservation = guard.reserve(request()).await.unwrap();
            reservation
                .settle(Basis::Reported, Ending { cost: Money::from_nano(1_500), ..Ending::default() });
        });
    }
    tasks.await;
}

criterion_group!(benches, commits);
criterion_main!(benches);

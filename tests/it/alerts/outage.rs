//! A receiver that is down for days, and clocks that jump, on a clock that the
//! test sets.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;
use spendguard::alerts::{Channels, Outbox};
use spendguard::clock::Clock;
use spendguard::domain::Money;
use spendguard::domain::demand::{Bound, Tier};
use spendguard::guard::{Ending, Guard, ReserveRequest};
use spendguard::ledger::entry::{Attribution, Basis};
use spendguard::startup;
use spendguard::store::outbox::Delivery;
use spendguard::store::{Durability, Reports, Store};
use spendguard::upstream::roots;
use tokio::sync::watch;

use super::{LIMIT, Receiver};
use crate::harness::run;

/// 2026-11-21T12:00:00Z.
const NOON_MS: i64 = 1_795_262_400_000;
const DAY_MS: i64 = 86_400_000;
const HOUR_MS: i64 = 3_600_000;

/// A guard with an outbox that tells one webhook, at whatever time it is made to be.
struct Office {
    guard: Arc<Guard>,
    reports: Reports,
    now_ms: Arc<AtomicI64>,
    stop: watch::Sender<bool>,
}

impl Office {
    async fn open(folder: &std::path::Path, url: &str, now_ms: i64) -> Self {
        Self::with(LIMIT, folder, url, now_ms).await
    }

    async fn with(limits: &str, folder: &std::path::Path, url: &str, now_ms: i64) -> Self {
        let now_ms = Arc::new(AtomicI64::new(now_ms));
        let wall = Arc::clone(&now_ms);
        let clock = Clock::with_wall(move || {
            UNIX_EPOCH + Duration::from_millis(wall.load(Ordering::Relaxed).unsigned_abs())
        });
        let secret = folder.join("secret");
        std::fs::write(&secret, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let config = folder.join("spendguard.toml");
        let webhook =
            format!("[[alerts.webhook]]\nurl = {url:?}\nsecret = {{ file = \"{}\" }}\n", secret.display());
        std::fs::write(&config, format!("{limits}{webhook}")).unwrap();
        let settings = spendguard::config::load(Some(&config), []).unwrap();
        let store = Store::open(&folder.join("data"), Durability::Process).unwrap();
        let config = startup::Config { open_requests_max: 10, zone: "UTC".into() };
        let (opened, writer) = startup::open(store, &config, Arc::new(clock), Arc::default()).unwrap();
        writer.start().unwrap();
        let (guard, reports) = (Arc::clone(&opened.guard), opened.reports.clone());
        opened.rulebook.install_file_limits(settings.limits, settings.zone).await.unwrap();
        let channels = Channels::of(&settings.alerts, &roots()).unwrap();
        let (stop, stopped) = watch::channel(false);
        let outbox = Outbox::new(opened, channels);
        // The test's own task; it ends with the test's runtime.
        tokio::task::spawn_local(async move { outbox.run(stopped).await });
        Self { guard, reports, now_ms, stop }
    }

    /// Spends something, which crosses the soft threshold.
    async fn spend(&self) {
        self.spend_as(None).await;
    }

    async fn spend_as(&self, user: Option<&str>) {
        let end_user = user.map(Arc::from);
        let request = ReserveRequest {
            attribution: Arc::new(Attribution { end_user, ..Attribution::default() }),
            bound: Bound { cost: Money::from_nano(9_000), input_tokens: 200, output_tokens: 100 },
            is_priced: true,
            client_cap: None,
            tier: Tier::default(),
            price_version: "2026-11-21".into(),
            stream: false,
            rules_version: 0,
        };
        let reservation = self.guard.reserve(request).await.unwrap();
        reservation.settle(Basis::Reported, Ending { cost: Money::from_nano(5_000), ..Ending::default() });
        self.guard.core().flush().await.unwrap();
    }

    /// The one delivery there is, once it has been tried so often.
    async fn tried(&self, attempts: u32) -> Delivery {
        for _ in 0..1_000 {
            // It looks at the clock when it is notified that there may be something.
            self.guard.core().news().crossed.notify_one();
            let found = self.reports.alerts(None, 10).await.unwrap();
            // It is noted before it is routed.
            let delivery = found.first().and_then(|(_, deliveries)| deliveries.first());
            if let Some(delivery) = delivery.filter(|delivery| delivery.attempts >= attempts) {
                return delivery.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it was not tried {attempts} times");
    }

    fn set(&self, now_ms: i64) {
        self.now_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Lets time pass from try to try, until it is sent, given up, or so late.
    async fn until(&self, end_ms: i64) -> Delivery {
        let mut last = self.tried(1).await;
        while last.state == "waiting" && last.next_ms <= end_ms {
            self.set(last.next_ms);
            last = self.tried(last.attempts + 1).await;
        }
        last
    }
}

async fn down() -> (Receiver, String, tempfile::TempDir) {
    let receiver = Receiver { refuses: Arc::new(true.into()), ..Receiver::default() };
    let url = receiver.listen().await;
    (receiver, url, tempfile::tempdir().unwrap())
}

#[test]
fn a_webhook_that_answers_500_for_a_day_is_tried_ever_more_rarely_and_gets_the_alert_at_last() {
    run(async {
        let (receiver, url, folder) = down().await;
        let office = Office::open(folder.path(), &url, NOON_MS).await;
        office.spend().await;
        let last = office.until(NOON_MS + DAY_MS).await;
        assert_eq!(last.state, "waiting");
        assert!((25..40).contains(&last.attempts), "seconds, minutes, then hours apart: {last:?}");
        assert!(last.error.as_deref().unwrap().contains("500"), "{last:?}");
        assert!(last.next_ms - NOON_MS - DAY_MS <= HOUR_MS, "{last:?}");
        receiver.refuses.store(false, Ordering::Relaxed);
        office.set(last.next_ms);
        let sent = office.tried(last.attempts + 1).await;
        assert_eq!((sent.state.as_str(), sent.error), ("sent", None));
        let got = receiver.got.lock().unwrap();
        assert!(got.iter().all(|(id, _)| *id == got[0].0), "the same id on every try");
        let _ = office.stop.send(true);
    });
}

#[test]
fn a_webhook_that_answers_500_for_three_days_is_given_up_and_says_why() {
    run(async {
        let (receiver, url, folder) = down().await;
        let office = Office::open(folder.path(), &url, NOON_MS).await;
        office.spend().await;
        let last = office.until(NOON_MS + 30 * DAY_MS).await;
        assert_eq!(last.state, "given_up", "{last:?}");
        assert!(last.error.as_deref().unwrap().contains("500"), "{last:?}");
        assert!((3 * DAY_MS..3 * DAY_MS + 2 * HOUR_MS).contains(&(last.next_ms - NOON_MS)), "{last:?}");
        let tries = receiver.got.lock().unwrap().len();
        assert_eq!(usize::try_from(last.attempts).unwrap(), tries);
        assert!(tries < 100, "{tries}");
        office.set(last.next_ms + DAY_MS);
        office.guard.core().news().crossed.notify_one();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(receiver.got.lock().unwrap().len(), tries, "given up for good");
        let _ = office.stop.send(true);
    });
}

#[test]
fn a_clock_that_was_ahead_and_is_set_right_does_not_keep_an_alert_waiting() {
    run(async {
        let (receiver, url, folder) = down().await;
        // Once the guard has run a month ahead, and died.
        let office = Office::open(folder.path(), &url, NOON_MS + 30 * DAY_MS).await;
        office.spend().await;
        let first = office.tried(1).await;
        assert!(first.next_ms > NOON_MS + 30 * DAY_MS);
        let Office { guard, reports, stop, .. } = office;
        let _ = stop.send(true);
        drop((guard, reports));
        receiver.refuses.store(false, Ordering::Relaxed);
        let office = reopened(folder.path(), &url).await;
        let sent = office.tried(2).await;
        assert_eq!(sent.state, "sent", "not a month later: {sent:?}");
        let _ = office.stop.send(true);
    });
}

/// Opens it again, once the last run has let go of the ledger.
async fn reopened(folder: &std::path::Path, url: &str) -> Office {
    for _ in 0..500 {
        if Store::open(&folder.join("data"), Durability::Process).is_ok() {
            return Office::open(folder, url, NOON_MS).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the ledger is still in use");
}

#[test]
fn a_clock_that_jumps_days_ahead_still_tells_what_waits() {
    run(async {
        let (receiver, url, folder) = down().await;
        let office = Office::open(folder.path(), &url, NOON_MS).await;
        office.spend().await;
        office.tried(1).await;
        receiver.refuses.store(false, Ordering::Relaxed);
        office.set(NOON_MS + 10 * DAY_MS);
        let sent = office.tried(2).await;
        assert_eq!(sent.state, "sent", "old news, but never sent: {sent:?}");
        let _ = office.stop.send(true);
    });
}

#[test]
fn of_invented_users_a_limit_sends_ten_messages_an_hour_and_one_of_all_the_others() {
    run(async {
        let receiver = Receiver::default();
        let (url, folder) = (receiver.listen().await, tempfile::tempdir().unwrap());
        let limits = LIMIT.replace("window =", "per = \"user\"\nwindow =");
        let office = Office::with(&limits, folder.path(), &url, NOON_MS).await;
        for user in 0..35 {
            office.spend_as(Some(&format!("invented-{user}"))).await;
        }
        assert_eq!(receiver.after(10).await.len(), 10);
        office.set(NOON_MS + HOUR_MS - 1);
        office.guard.core().news().crossed.notify_one();
        assert_eq!(receiver.after(10).await.len(), 10);
        office.set(NOON_MS + HOUR_MS);
        office.guard.core().news().crossed.notify_one();
        let got = receiver.after(11).await;
        assert_eq!(got.len(), 11);
        let (_, digest) = &got[10];
        assert_eq!(
            (&digest["type"], &digest["data"]["digest_of"]),
            (&json!("limit.soft"), &json!(25)),
            "{digest}"
        );
        let found = office.reports.alerts(None, 100).await.unwrap();
        assert_eq!(found.len(), 35, "each is a fact all the same");
        assert!(found.iter().all(|(_, deliveries)| deliveries.len() == 1 && deliveries[0].state == "sent"));
        let _ = office.stop.send(true);
    });
}

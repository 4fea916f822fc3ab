//! Operators change the rules, each change through one guard.

use std::sync::Arc;

use tokio::time::sleep;

use crate::domain::limit::{Per, Unit};
use crate::domain::{Limit, Window};
use crate::store::postgres::past::Pasts;
use crate::store::postgres::simulation::chance::Chance;
use crate::store::postgres::simulation::clients::KEYS;
use crate::store::postgres::simulation::connection::Connection;
use crate::store::postgres::simulation::database::Ended;
use crate::store::postgres::simulation::guard::Guard;
use crate::store::postgres::simulation::plan::limit;
use crate::store::postgres::simulation::rules::RuleChange;

/// How long adding up the past of a limit takes, in milliseconds.
const SUM_MAX_MS: u64 = 4_000;
/// How often it is caught up with at most, and how long each time takes on either side of its mark.
const ROUNDS_MAX: u64 = 3;
const ROUND_MAX_MS: u64 = 800;
/// Keys that are revoked at most: the others go on.
const REVOKED_MAX: usize = 2;

/// A change for the rules as they are.
pub(super) fn draw(guard: &Guard, chance: &mut Chance) -> RuleChange {
    let state = guard.database.state();
    let rules = &state.tables.rules;
    let amount = |chance: &mut Chance, most| i64::try_from(chance.within(1, most)).unwrap();
    match chance.within(0, 9) {
        0 | 1 if rules.revoked.len() < REVOKED_MAX => {
            RuleChange::Revoke(usize::try_from(chance.within(0, KEYS - 1)).unwrap())
        }
        2 if rules.limits.contains_key("later") => RuleChange::Remove("later".into()),
        2 | 3 => {
            let hard = state.oracle.settled("month") + amount(chance, 5_000);
            RuleChange::Add(limit("later", Per::Organization, Unit::Usd, Window::Day, hard))
        }
        4 | 5 if guard.database.plan.credit => RuleChange::Grant(amount(chance, 20_000)),
        6 => RuleChange::Cap("month".into(), state.oracle.settled("month").saturating_sub(50).max(1)),
        7 => RuleChange::Cap("key".into(), amount(chance, 20_000)),
        _ => RuleChange::Cap("month".into(), state.oracle.settled("month") + amount(chance, 20_000)),
    }
}

/// Makes a change, in the steps of the real one.
pub(super) async fn change(guard: Arc<Guard>, change: RuleChange) {
    // After an error it may have been committed all the same.
    if let Ok(version) = changed(&guard, change).await {
        guard.shared.refresh(version);
    }
}

async fn changed(guard: &Guard, change: RuleChange) -> Result<i64, Ended> {
    let pasts = match &change {
        RuleChange::Add(limit) => learned(guard, limit).await?,
        RuleChange::Mark
        | RuleChange::Cap(..)
        | RuleChange::Remove(_)
        | RuleChange::Revoke(_)
        | RuleChange::Grant(_) => Pasts::default(),
    };
    written(guard, change, pasts).await.map(|(version, _)| version)
}

/// Adds up what a new limit has settled, which takes time, and catches up with it a few times.
async fn learned(guard: &Guard, limit: &Arc<Limit>) -> Result<Pasts, Ended> {
    let Guard { database, link, .. } = guard;
    let mark = marked(guard).await?;
    sleep(database.delay(SUM_MAX_MS)).await;
    let (of, limit) = (Arc::clone(database), Arc::clone(limit));
    let mut connection = Connection::open(database, link).await?;
    let mut pasts = connection.call(async move { Ok(of.learn(&limit, mark)) }).await?;
    for _ in 0..database.draw(|chance| chance.within(0, ROUNDS_MAX)) {
        sleep(database.delay(ROUND_MAX_MS)).await;
        let mark = marked(guard).await?;
        sleep(database.delay(ROUND_MAX_MS)).await;
        let of = Arc::clone(database);
        pasts = connection.call(async move { Ok(of.go_on(pasts, mark)) }).await?;
    }
    sleep(database.delay(SUM_MAX_MS)).await;
    Ok(pasts)
}

/// Makes a mark: an id, after which no guard has ids left that it was given before.
async fn marked(guard: &Guard) -> Result<u64, Ended> {
    let (version, mark) = written(guard, RuleChange::Mark, Pasts::default()).await?;
    guard.shared.refresh(version);
    Ok(mark)
}

/// Makes a change. Returns its version, and an id that was given out in it.
async fn written(guard: &Guard, change: RuleChange, mut pasts: Pasts) -> Result<(i64, u64), Ended> {
    let Guard { database, link, shared, .. } = guard;
    let mut own = Connection::open(database, link).await?;
    let id = own.id;
    let version = own.call(Arc::clone(database).begin_change(id)).await?;
    if version < shared.rules_version() {
        shared.note_gone_back();
        return Err(Ended::Lost);
    }
    if !shared.refresh(version) {
        return Err(Ended::Lost);
    }
    let of = Arc::clone(database);
    let caught_up = async move {
        of.catch_up(&mut pasts);
        Ok(pasts)
    };
    let pasts = own.call(caught_up).await?;
    own.call(Arc::clone(database).still(id)).await?;
    let given = own.call(Arc::clone(database).change(id, change, pasts)).await?;
    Ok((version + 1, given))
}

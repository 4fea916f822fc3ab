//! Spend alerts: soft thresholds of limits without a cap, one limit for each.
//!
//! A spend alert is therefore recorded and sent like every soft threshold. Its
//! channel is stored in a record of its own, together with the limit.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::domain::{Limit, Money};
use crate::guard::audit::{Actor, Change, ChangeTurn};
use crate::keys;
use crate::rulebook::Rulebook;
use crate::rulebook::limits::{Book, LimitError};
use crate::rulebook::rule::{LimitRule, OnlyRule};
use crate::store::records::{AlertRow, Channel, RecordChange};

/// Spend alerts of an organization, and of each project: each one is checked on
/// every request that it applies to.
const ALERTS_MAX: usize = 100;

/// A spend alert.
#[derive(Clone, Debug)]
pub struct SpendAlert {
    /// Its id, which is its limit's name.
    pub id: String,
    /// The spending at which it is sent.
    pub threshold: Money,
    /// Its channel.
    pub channel: Channel,
}

/// The spending that an alert watches: that of a project, or all of it.
type Scope<'a> = Option<&'a str>;

/// A limit by the month in dollars, of one project or the whole organization.
pub fn monthly(project: Scope<'_>, soft: Option<Money>, hard: Option<Money>) -> LimitRule {
    LimitRule {
        per: if project.is_some() { "project" } else { "organization" }.to_owned(),
        only: OnlyRule { project: project.map(str::to_owned).into_iter().collect(), ..OnlyRule::default() },
        unit: "usd".to_owned(),
        window: "month".to_owned(),
        zone: None,
        soft: soft.map(|amount| amount.to_string()).into_iter().collect(),
        hard: hard.map(|amount| amount.to_string()),
        mode: "enforce".to_owned(),
    }
}

impl Book {
    /// An alert with the threshold of its limit.
    fn alert(&self, row: &AlertRow) -> Option<SpendAlert> {
        let threshold = self.made(&row.id)?.thresholds().first().copied()?;
        let threshold = Money::from_nano(threshold);
        Some(SpendAlert { id: row.id.clone(), threshold, channel: row.channel.clone() })
    }

    fn limit(&self, id: &str, scope: Scope<'_>, threshold: Money) -> Result<Arc<Limit>, LimitError> {
        Ok(Arc::new(monthly(scope, Some(threshold), None).limit(id, &self.zone)?))
    }

    fn row(&self, scope: Scope<'_>, id: &str) -> Result<&AlertRow, LimitError> {
        let found = self.alerts.iter().find(|row| row.id == id && row.project.as_deref() == scope);
        found.ok_or_else(|| LimitError::NoSuchAlert(id.to_owned()))
    }
}

fn change(
    event: &'static str,
    row: &AlertRow,
    before: Option<&SpendAlert>,
    after: Option<&SpendAlert>,
) -> Change {
    let said = |alert: &SpendAlert| -> Value {
        json!({ "threshold_usd": alert.threshold.to_string(), "notification_channel": alert.channel })
    };
    let (before, after) = (before.map(said), after.map(said));
    Change { event, resource: row.id.clone(), project: row.project.clone(), before, after }
}

impl Rulebook {
    /// The spend alerts of the organization or a project, in the order of their
    /// making.
    pub async fn spend_alerts(&self, scope: Scope<'_>) -> Vec<SpendAlert> {
        let book = self.book.lock().await;
        let rows = book.alerts.iter().filter(|row| row.project.as_deref() == scope);
        rows.filter_map(|row| book.alert(row)).collect()
    }

    /// Makes a spend alert. It is in force when this returns.
    pub async fn create_spend_alert(
        &self,
        scope: Scope<'_>,
        threshold: Money,
        channel: Channel,
        by: &Actor,
    ) -> Result<SpendAlert, LimitError> {
        let mut turn = self.records.turn(by).await?;
        let mut book = self.open_book().await;
        let of_same = book.alerts.iter().filter(|row| row.project.as_deref() == scope).count();
        if of_same >= ALERTS_MAX {
            return Err(LimitError::TooManyAlerts(ALERTS_MAX));
        }
        let row = AlertRow { id: keys::new_id("alert_")?, project: scope.map(str::to_owned), channel };
        let alert = SpendAlert { id: row.id.clone(), threshold, channel: row.channel.clone() };
        let change = change("spend_alert.created", &row, None, Some(&alert));
        self.put_alert(&mut turn, &mut book, row, threshold, change, by).await?;
        self.records.finish(turn).await?;
        Ok(alert)
    }

    /// Changes a spend alert. It is in force when this returns.
    pub async fn change_spend_alert(
        &self,
        scope: Scope<'_>,
        id: &str,
        threshold: Money,
        channel: Channel,
        by: &Actor,
    ) -> Result<SpendAlert, LimitError> {
        let mut turn = self.records.turn(by).await?;
        let mut book = self.open_book().await;
        let known = book.row(scope, id)?;
        let before = book.alert(known);
        let row = AlertRow { channel, ..known.clone() };
        let alert = SpendAlert { id: row.id.clone(), threshold, channel: row.channel.clone() };
        let change = change("spend_alert.updated", &row, before.as_ref(), Some(&alert));
        self.put_alert(&mut turn, &mut book, row, threshold, change, by).await?;
        self.records.finish(turn).await?;
        Ok(alert)
    }

    /// Removes a spend alert.
    pub async fn delete_spend_alert(&self, scope: Scope<'_>, id: &str, by: &Actor) -> Result<(), LimitError> {
        let mut turn = self.records.turn(by).await?;
        let mut book = self.open_book().await;
        let row = book.row(scope, id)?.clone();
        let change = change("spend_alert.deleted", &row, book.alert(&row).as_ref(), None);
        let removed = RecordChange::RemoveAlert(id.to_owned());
        self.unwrite_rule(&mut turn, &mut book, id, vec![change], by, Some(removed)).await?;
        book.alerts.retain(|known| known.id != id);
        self.install(&mut turn, &mut book).await?;
        Ok(self.records.finish(turn).await?)
    }

    async fn put_alert(
        &self,
        turn: &mut ChangeTurn,
        book: &mut Book,
        row: AlertRow,
        threshold: Money,
        change: Change,
        by: &Actor,
    ) -> Result<(), LimitError> {
        let limit = book.limit(&row.id, row.project.as_deref(), threshold)?;
        let stored = RecordChange::PutAlert(row.clone());
        self.write_rules(turn, book, &[limit], vec![change], by, Some(stored)).await?;
        match book.alerts.iter_mut().find(|known| known.id == row.id) {
            Some(known) => *known = row,
            None => book.alerts.push(row),
        }
        Ok(self.install(turn, book).await?)
    }
}

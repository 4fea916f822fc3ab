//! Which models a project may use: written first, then asked on every request.

use crate::guard::Guard;
use crate::guard::keyring::KeyError;
use crate::guard::trail::{Actor, Change};
use crate::keys::ModelRule;
use crate::store::organization::{self as rows, ModelRuleRow};

/// What a stored rule says. A mode that can't be read lets only the listed
/// models through, which is the stricter of the two.
pub(super) fn rule_of(row: ModelRuleRow) -> ModelRule {
    ModelRule { denies: row.mode == ModelRule::mode(true), models: row.models }
}

impl Guard {
    /// Sets or removes a project's rule on models. It is in force when this
    /// returns. Says whether there was one before.
    pub async fn put_model_rule(
        &self,
        project: &str,
        rule: Option<ModelRule>,
        by: &Actor,
    ) -> Result<bool, KeyError> {
        let _one_at_a_time = self.ring_changes.lock().await;
        let project = self.active_project(Some(project.to_owned()))?;
        let before = self.ring.model_rule(&project);
        let said = |rule: &ModelRule| serde_json::json!({ "mode": ModelRule::mode(rule.denies), "model_ids": rule.models });
        let event = if rule.is_some() { "model_permissions.updated" } else { "model_permissions.deleted" };
        let change = Change {
            event,
            resource: project.clone(),
            project: Some(project.clone()),
            before: before.as_ref().map(said),
            after: rule.as_ref().map(said),
        };
        let row = rule.clone().map(|rule| ModelRuleRow {
            project: project.clone(),
            mode: ModelRule::mode(rule.denies).to_owned(),
            models: rule.models,
        });
        let gone = project.clone();
        let work = move |db: &rusqlite::Connection| match &row {
            Some(row) => rows::put_model_rule(db, row),
            None => rows::drop_model_rule(db, &gone),
        };
        self.write(by, vec![change], work).await?;
        self.ring.put_model_rule(&project, rule.as_ref());
        Ok(before.is_some())
    }
}

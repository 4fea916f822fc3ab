//! The models that a project may use: committed first, then checked on every request.

use crate::directory::Directory;
use crate::directory::keyring::KeyError;
use crate::guard::audit::{Actor, Change};
use crate::keys::ModelRule;
use crate::store::records::{ModelRuleRow, RecordChange};

/// Reads a stored rule. A mode that can't be read allows only the listed models,
/// which is the stricter mode.
pub(super) fn rule_of(row: ModelRuleRow) -> ModelRule {
    ModelRule { denies: row.mode == ModelRule::mode(true), models: row.models }
}

impl Directory {
    /// Sets or removes a project's rule on models. It is in force when this
    /// returns. Returns whether there was one before.
    pub async fn put_model_rule(
        &self,
        project: &str,
        rule: Option<ModelRule>,
        by: &Actor,
    ) -> Result<bool, KeyError> {
        let mut turn = self.records.turn(by).await?;
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
        let stored = match rule.clone() {
            Some(rule) => RecordChange::PutModelRule(ModelRuleRow {
                project: project.clone(),
                mode: ModelRule::mode(rule.denies).to_owned(),
                models: rule.models,
            }),
            None => RecordChange::RemoveModelRule(project.clone()),
        };
        self.records.write(&mut turn, by, vec![change], vec![stored]).await?;
        turn.put_in_memory(|| self.ring.put_model_rule(&project, rule.as_ref()));
        self.records.finish(turn).await?;
        Ok(before.is_some())
    }
}

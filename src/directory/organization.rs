//! The organization: its name, and the first steps that were put aside.
//!
//! A name in the configuration file wins over the one in the database.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock};

use serde_json::{Value, json};

use crate::directory::Directory;
use crate::directory::keyring::checked_name;
use crate::domain::limit::Source;
use crate::guard::audit::{Actor, Change};
use crate::store::StoreError;
use crate::store::records::RecordChange;
use crate::sync::unpoisoned;

/// The name of an organization without a configured name.
const UNNAMED: &str = "My organization";
/// The names of the settings.
const NAME: &str = "organization.name";
const ASIDE: &str = "first_steps.aside";

/// Why the organization was not renamed.
#[derive(Debug, thiserror::Error)]
pub enum RenameError {
    /// The name is empty or too long.
    #[error("a name needs 1 to 256 characters and no control characters")]
    BadName,
    /// The configuration file names it.
    #[error("the configuration file names the organization; change it there")]
    ManagedByFile,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The name of the organization, and the first steps that were put aside.
#[derive(Debug, Default)]
pub(super) struct Organization(RwLock<State>);

#[derive(Clone, Debug, Default)]
struct State {
    of_file: Option<Arc<str>>,
    stored: Option<Arc<str>>,
    aside: BTreeSet<String>,
}

impl Organization {
    /// From the settings, by name.
    pub(super) fn of(settings: &BTreeMap<String, String>) -> Self {
        let stored = settings.get(NAME).map(|name| name.as_str().into());
        let aside = settings.get(ASIDE).map(String::as_str).unwrap_or_default();
        let aside = aside.split_whitespace().map(str::to_owned).collect();
        Self(RwLock::new(State { of_file: None, stored, aside }))
    }

    /// Replaces what the settings say.
    pub(super) fn replace(&self, settings: &BTreeMap<String, String>) {
        let Self(new) = Self::of(settings);
        let new = unpoisoned(new.into_inner());
        self.change(|state| *state = State { of_file: state.of_file.take(), ..new });
    }

    fn state(&self) -> State {
        unpoisoned(self.0.read()).clone()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = unpoisoned(self.0.write());
        change(&mut state);
    }
}

fn change(before: &Value, after: Value) -> Change {
    Change {
        event: "organization.updated",
        resource: "organization".to_owned(),
        project: None,
        before: Some(before.clone()),
        after: Some(after),
    }
}

impl Directory {
    /// The organization's name.
    pub fn organization(&self) -> Arc<str> {
        let state = self.organization.state();
        state.of_file.or(state.stored).unwrap_or_else(|| UNNAMED.into())
    }

    /// Where the organization's name was set, if it was.
    pub fn organization_named_by(&self) -> Option<Source> {
        let state = self.organization.state();
        state.of_file.map(|_| Source::File).or(state.stored.map(|_| Source::Api))
    }

    /// Puts the configuration file's name in force; `None` if the file has none.
    pub fn install_file_organization(&self, name: Option<&str>) {
        self.organization.change(|state| state.of_file = name.map(Arc::from));
    }

    /// Gives the organization another name.
    pub async fn rename_organization(&self, name: String, by: &Actor) -> Result<(), RenameError> {
        let mut turn = self.records.turn(by).await?;
        let state = self.organization.state();
        if state.of_file.is_some() {
            return Err(RenameError::ManagedByFile);
        }
        let name = checked_name(name).map_err(|_| RenameError::BadName)?;
        let said = change(&json!({ "name": state.stored.as_deref() }), json!({ "name": name }));
        let stored = RecordChange::PutSetting(NAME.to_owned(), name.clone());
        self.records.write(&mut turn, by, vec![said], vec![stored]).await?;
        turn.put_in_memory(|| self.organization.change(|state| state.stored = Some(name.into())));
        Ok(self.records.finish(turn).await?)
    }

    /// The first steps that operators put aside.
    pub fn first_steps_aside(&self) -> BTreeSet<String> {
        self.organization.state().aside
    }

    /// Puts first steps aside, for good.
    pub async fn put_first_steps_aside(&self, steps: &[&str], by: &Actor) -> Result<(), StoreError> {
        let mut turn = self.records.turn(by).await?;
        let before = self.organization.state().aside;
        let mut aside = before.clone();
        aside.extend(steps.iter().map(|step| (*step).to_owned()));
        let said = change(&json!({ "first_steps_aside": before }), json!({ "first_steps_aside": aside }));
        let stored: Vec<String> = aside.iter().cloned().collect();
        let stored = RecordChange::PutSetting(ASIDE.to_owned(), stored.join(" "));
        self.records.write(&mut turn, by, vec![said], vec![stored]).await?;
        turn.put_in_memory(|| self.organization.change(|state| state.aside = aside));
        self.records.finish(turn).await
    }
}

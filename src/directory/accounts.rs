//! Service accounts: owners of keys in a project; removing one revokes its keys.

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};

use serde_json::json;

use crate::directory::Directory;
use crate::directory::keyring::{KeyError, NewKey, checked_name};
use crate::domain::Secret;
use crate::guard::audit::{Actor, Change, ChangeTurn};
use crate::keys::{self, Key};
use crate::rulebook::names::Named;
use crate::store::records::{AccountRow, KeyRow, RecordChange};
use crate::sync::unpoisoned;

/// Service accounts that a project may have.
const ACCOUNTS_MAX: usize = 1_000;
/// Keys that a service account may own.
const KEYS_MAX: usize = 100;
/// The name of an account's first key.
const FIRST_KEY: &str = "Secret Key";

/// All service accounts, in the order of their creation.
#[derive(Debug, Default)]
pub(super) struct Accounts(RwLock<Vec<Arc<AccountRow>>>);

impl Accounts {
    pub(super) fn of(rows: Vec<AccountRow>) -> Self {
        Self(RwLock::new(rows.into_iter().map(Arc::new).collect()))
    }

    fn all(&self) -> Vec<Arc<AccountRow>> {
        unpoisoned(self.0.read()).clone()
    }

    /// Puts an account in place of the one with its id.
    fn put(&self, account: Arc<AccountRow>) {
        let mut all = unpoisoned(self.0.write());
        match all.iter_mut().find(|known| known.id == account.id) {
            Some(known) => *known = account,
            None => all.push(account),
        }
    }

    /// Replaces all accounts.
    pub(super) fn replace(&self, rows: Vec<AccountRow>) {
        *unpoisoned(self.0.write()) = rows.into_iter().map(Arc::new).collect();
    }

    fn remove(&self, id: &str) {
        unpoisoned(self.0.write()).retain(|known| known.id != id);
    }
}

fn change(before: Option<&AccountRow>, after: Option<&AccountRow>) -> Option<Change> {
    let event = match (before, after) {
        (None, _) => "service_account.created",
        (Some(_), Some(_)) => "service_account.updated",
        (Some(_), None) => "service_account.deleted",
    };
    let said = |row: &AccountRow| json!({ "name": row.name, "api_key_ids": row.keys });
    let of = after.or(before)?;
    Some(Change {
        event,
        resource: of.id.clone(),
        project: Some(of.project.clone()),
        before: before.map(said),
        after: after.map(said),
    })
}

impl Directory {
    /// The service accounts of a project, in the order of their creation.
    pub fn accounts(&self, project: &str) -> Vec<Arc<AccountRow>> {
        self.accounts.all().into_iter().filter(|account| account.project == project).collect()
    }

    /// A service account of a project.
    pub fn account(&self, project: &str, id: &str) -> Result<Arc<AccountRow>, KeyError> {
        let found = self.accounts(project).into_iter().find(|account| account.id == id);
        found.ok_or_else(|| KeyError::NoSuchAccount(id.to_owned()))
    }

    /// Creates a service account, with a first key if requested. The key's secret
    /// is returned only here.
    pub async fn create_account(
        &self,
        project: &str,
        name: String,
        key_expires_in_s: Option<Option<i64>>,
        by: &Actor,
    ) -> Result<(Arc<AccountRow>, Option<(Arc<Key>, Secret)>), KeyError> {
        let turn = self.records.turn(by).await?;
        if self.accounts(project).len() >= ACCOUNTS_MAX {
            return Err(KeyError::TooMany("service accounts of a project", ACCOUNTS_MAX));
        }
        let mut account = AccountRow {
            id: keys::new_id("svc_acct_")?,
            project: self.active_project(Some(project.to_owned()))?,
            name: checked_name(name)?,
            keys: Vec::new(),
            created_s: self.clock.now_s(),
        };
        let first = |expires_in_s| self.own_key(&mut account, FIRST_KEY.to_owned(), expires_in_s);
        let key = key_expires_in_s.map(first).transpose()?;
        let (row, secret) = key.unzip();
        let (account, key) = self.put_account(turn, None, account, row, by).await?;
        Ok((account, key.zip(secret)))
    }

    /// Creates another key of a service account. Its secret is returned only here.
    pub async fn create_account_key(
        &self,
        project: &str,
        id: &str,
        name: Option<String>,
        expires_in_s: Option<i64>,
        by: &Actor,
    ) -> Result<(Arc<Key>, Secret), KeyError> {
        let turn = self.records.turn(by).await?;
        let before = self.account(project, id)?;
        if before.keys.len() >= KEYS_MAX {
            return Err(KeyError::TooMany("keys of a service account", KEYS_MAX));
        }
        self.active_project(Some(project.to_owned()))?;
        let mut account = before.as_ref().clone();
        let name = name.unwrap_or_else(|| FIRST_KEY.to_owned());
        let (row, secret) = self.own_key(&mut account, name, expires_in_s)?;
        let (_, key) = self.put_account(turn, Some(&before), account, Some(row), by).await?;
        let key = key.ok_or_else(|| KeyError::NoSuchAccount(id.to_owned()))?;
        Ok((key, secret))
    }

    /// Renames a service account.
    pub async fn rename_account(
        &self,
        project: &str,
        id: &str,
        name: String,
        by: &Actor,
    ) -> Result<Arc<AccountRow>, KeyError> {
        let turn = self.records.turn(by).await?;
        let before = self.account(project, id)?;
        let account = AccountRow { name: checked_name(name)?, ..before.as_ref().clone() };
        Ok(self.put_account(turn, Some(&before), account, None, by).await?.0)
    }

    /// Removes a service account and revokes its keys, all or none.
    pub async fn delete_account(&self, project: &str, id: &str, by: &Actor) -> Result<(), KeyError> {
        let mut turn = self.records.turn(by).await?;
        let account = self.account(project, id)?;
        let now_s = self.clock.now_s();
        let mut changes: Vec<Change> = change(Some(&account), None).into_iter().collect();
        let mut revoked = Vec::new();
        for key in &account.keys {
            let before = self.row(key)?;
            let row = before.revoked(now_s);
            changes.push(Change::of_key(Some(&before), &row));
            revoked.push(row);
        }
        let mut records = vec![RecordChange::RemoveAccount(id.to_owned())];
        records.extend(revoked.iter().cloned().map(RecordChange::PutKey));
        self.records.write(&mut turn, by, changes, records).await?;
        let names: BTreeSet<String> = revoked.iter().map(|row| row.name.clone()).collect();
        for row in revoked {
            self.install_key(&turn, row);
        }
        turn.put_in_memory(|| self.accounts.remove(id));
        self.records.finish(turn).await?;
        for name in names {
            self.rulebook.look_up_name(Named::Key, &name).await;
        }
        Ok(())
    }

    /// A new key that an account owns, not written yet.
    fn own_key(
        &self,
        account: &mut AccountRow,
        name: String,
        expires_in_s: Option<i64>,
    ) -> Result<(KeyRow, Secret), KeyError> {
        let new = NewKey { name, project: Some(account.project.clone()), expires_in_s, ..NewKey::default() };
        let (row, secret) = self.new_row(new)?;
        account.keys.push(row.id.clone());
        Ok((row, secret))
    }

    /// Writes an account, with a key that it gets, and puts both in force.
    async fn put_account(
        &self,
        mut turn: ChangeTurn,
        before: Option<&AccountRow>,
        account: AccountRow,
        key: Option<KeyRow>,
        by: &Actor,
    ) -> Result<(Arc<AccountRow>, Option<Arc<Key>>), KeyError> {
        let mut changes: Vec<Change> = change(before, Some(&account)).into_iter().collect();
        changes.extend(key.as_ref().map(|row| Change::of_key(None, row)));
        let mut records = vec![RecordChange::PutAccount(account.clone())];
        records.extend(key.iter().cloned().map(RecordChange::PutKey));
        self.records.write(&mut turn, by, changes, records).await?;
        let (account, key) = (Arc::new(account), key.map(|row| self.install_key(&turn, row)));
        turn.put_in_memory(|| self.accounts.put(Arc::clone(&account)));
        match &key {
            Some(key) => self.finish_named(turn, Named::Key, &key.name, Some(&key.id)).await?,
            None => self.records.finish(turn).await?,
        }
        Ok((account, key))
    }
}

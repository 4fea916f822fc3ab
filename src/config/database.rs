//! The database that several guards share, and this guard's name among them.

use std::collections::HashMap;
use std::time::Duration;

use crate::config::problems::{Notes, secret};
use crate::config::raw::Raw;
use crate::config::settings::Database;
use crate::store::CONNECTIONS_MIN;

/// The shortest time after which a guard is given up: it says every second that it is alive.
const NODE_TIMEOUT_MIN: Duration = Duration::from_secs(5);

/// The shared database, if there is one; `None` for a mistake, which is noted.
pub(super) fn database(
    raw: &Raw,
    environment: &HashMap<String, String>,
    notes: &mut Notes<'_>,
) -> Option<Option<Database>> {
    let (storage, cluster) = (&raw.storage, &raw.cluster);
    let connect_timeout = notes.duration("storage.connect_timeout", &storage.connect_timeout);
    let statement_timeout = notes.duration("storage.statement_timeout", &storage.statement_timeout);
    let node_timeout = notes.duration("cluster.node_timeout", &cluster.node_timeout);
    let schema = notes.ok("storage.schema", schema(&storage.schema));
    let node = notes.ok("cluster.node", cluster.node.as_deref().map(node).transpose());
    let Some(source) = &storage.url else { return Some(None) };
    let url = notes.ok("storage.url", secret(source, environment));
    if raw.admin.token.is_none() && !environment.contains_key(super::problems::DEFAULT_ADMIN_TOKEN) {
        let problem = "guards that share a database need the same token: set it, as by { env = \"SPENDGUARD_ADMIN_TOKEN\" }";
        notes.note("admin.token", problem.into());
    }
    if storage.connections_max < CONNECTIONS_MIN {
        notes
            .note("storage.connections_max", format!("a guard needs at least {CONNECTIONS_MIN} connections"));
    }
    let node_timeout = node_timeout?;
    if node_timeout < NODE_TIMEOUT_MIN {
        notes.note("cluster.node_timeout", "is too short; write at least \"5s\"".into());
    }
    Some(Some(Database {
        url: url?,
        schema: schema?,
        connections_max: storage.connections_max,
        connect_timeout: connect_timeout?,
        statement_timeout: statement_timeout?,
        node: node?,
        node_timeout,
    }))
}

/// Checks a schema's name, which is written in statements as it is.
pub(crate) fn schema(name: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let fits = (1..=63).contains(&name.len()) && name.chars().all(is_plain);
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if fits && starts_well && !name.starts_with("pg_") {
        Ok(name.to_owned())
    } else {
        Err(format!("{name:?} is no name of a schema: use up to 63 of a-z, 0-9 and _, and no digit first"))
    }
}

fn node(name: &str) -> Result<String, String> {
    let fits = (1..=128).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if fits { Ok(name.to_owned()) } else { Err("a name needs 1 to 128 characters".to_owned()) }
}

//! `spendguard keys …` and `spendguard projects …`.

use std::io::Read as _;

use http::Method;
use serde_json::{Value, json};

use crate::cli::api::segment;
use crate::cli::args::{KeysCommand, NewKeyArgs, ProjectsCommand};
use crate::cli::table::{self, text, time};
use crate::cli::{Connection, Failure, Format};
use crate::config::units;

const SECRET_BYTES_MAX: u64 = 4_096;

pub(super) async fn run(
    command: KeysCommand,
    format: Format,
    connection: &Connection,
) -> Result<(), Failure> {
    match command {
        KeysCommand::Create(new) => create(new, format, connection).await,
        KeysCommand::Import(new) => {
            create(NewKeyArgs { secret_stdin: true, ..new }, format, connection).await
        }
        KeysCommand::List => list(format, connection).await,
        KeysCommand::Rotate { id, grace } => {
            let body = json!({ "grace_seconds": seconds(&grace)? });
            let path = format!("/guard/v1/keys/{}/rotate", segment(&id));
            let key = connection.call(Method::POST, &path, Some(body)).await?;
            shown_once(format, &key);
            Ok(())
        }
        KeysCommand::Revoke { id } => {
            let path = format!("/guard/v1/keys/{}", segment(&id));
            let key = connection.call(Method::DELETE, &path, None).await?;
            let words = format!("revoked {} ({})", text(&key, "id"), text(&key, "name"));
            table::outcome(format, &key, &words);
            Ok(())
        }
    }
}

async fn create(new: NewKeyArgs, format: Format, connection: &Connection) -> Result<(), Failure> {
    let secret = if new.secret_stdin { Some(from_stdin()?) } else { None };
    let expires = new.expires.as_deref().map(seconds).transpose()?;
    let mut body = json!({ "name": new.name, "models": new.models });
    let mut put = |field: &str, value: Option<Value>| {
        if let Some(value) = value {
            body[field] = value;
        }
    };
    put("project_id", new.project.map(Value::from));
    put("expires_in_seconds", expires.map(Value::from));
    put("secret", secret.clone().map(Value::from));
    let key = connection.call(Method::POST, "/guard/v1/keys", Some(body)).await?;
    if secret.is_some() {
        let words = format!("imported {} ({})", text(&key, "id"), text(&key, "name"));
        table::outcome(format, &key, &words);
    } else {
        shown_once(format, &key);
    }
    Ok(())
}

fn shown_once(format: Format, key: &Value) {
    let [id, name, secret] = ["id", "name", "value"].map(|field| text(key, field));
    let words = format!(
        "{id} ({name})\n{secret}\nThis is the only time the secret is shown. Give it to your program:\n  export OPENAI_API_KEY={secret}"
    );
    table::outcome(format, key, &words);
}

fn from_stdin() -> Result<String, Failure> {
    let mut secret = String::new();
    let read = std::io::stdin().lock().take(SECRET_BYTES_MAX).read_to_string(&mut secret);
    read.map_err(|error| Failure::failed(format!("standard input can't be read: {error}")))?;
    Ok(secret.trim_end_matches(['\r', '\n']).to_owned())
}

fn seconds(duration: &str) -> Result<u64, Failure> {
    units::duration(duration).map(|duration| duration.as_secs()).map_err(Failure::wrong)
}

async fn list(format: Format, connection: &Connection) -> Result<(), Failure> {
    let keys = connection.all("/guard/v1/keys").await?;
    if table::programs(format, &Value::from(keys.as_slice())) {
        return Ok(());
    }
    let columns = [
        ("ID", false),
        ("NAME", false),
        ("PROJECT", false),
        ("KEY", false),
        ("STATUS", false),
        ("LAST USED", false),
        ("EXPIRES", false),
    ];
    let row = |key: &Value| {
        let fields = ["id", "name", "project_id", "redacted_value", "status"].map(|field| text(key, field));
        fields.into_iter().chain([time(key, "last_used_at"), time(key, "expires_at")]).collect()
    };
    table::print(format, &columns, &keys.iter().map(row).collect::<Vec<Vec<_>>>())
}

pub(super) async fn projects(
    command: ProjectsCommand,
    format: Format,
    connection: &Connection,
) -> Result<(), Failure> {
    match command {
        ProjectsCommand::Create { name, id } => {
            let mut body = json!({ "name": name });
            if let Some(id) = id {
                body["id"] = id.into();
            }
            let project = connection.call(Method::POST, "/guard/v1/projects", Some(body)).await?;
            let words = format!("created {} ({})", text(&project, "id"), text(&project, "name"));
            table::outcome(format, &project, &words);
            Ok(())
        }
        ProjectsCommand::List => {
            let projects = connection.all("/guard/v1/projects").await?;
            if table::programs(format, &Value::from(projects.as_slice())) {
                return Ok(());
            }
            let columns = [("ID", false), ("NAME", false), ("STATUS", false), ("SOURCE", false)];
            let row = |project: &Value| {
                ["id", "name", "status", "source"].map(|field| text(project, field)).to_vec()
            };
            table::print(format, &columns, &projects.iter().map(row).collect::<Vec<_>>())
        }
        ProjectsCommand::Archive { id } => {
            let path = format!("/guard/v1/projects/{}/archive", segment(&id));
            let project = connection.call(Method::POST, &path, None).await?;
            let words = format!("archived {}; its keys are refused", text(&project, "id"));
            table::outcome(format, &project, &words);
            Ok(())
        }
    }
}

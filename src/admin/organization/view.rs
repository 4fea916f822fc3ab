//! The shapes of OpenAI's admin API. Money is cents or dollars as they have it,
//! times are Unix seconds.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::directory::admin_keys::AdminKey;
use crate::domain::Secret;
use crate::keys::{Key, Project};
use crate::store::records::{AccountRow, Channel};

/// Confirms that an object was removed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Deleted)]
pub(crate) struct DeletedView {
    object: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    deleted: bool,
}

impl DeletedView {
    pub(super) fn of(object: &'static str, id: Option<String>) -> Self {
        Self { object, id, deleted: true }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OrganizationProject)]
pub(crate) struct ProjectView {
    object: &'static str,
    pub(super) id: String,
    name: String,
    created_at: i64,
    archived_at: Option<i64>,
    status: &'static str,
}

impl ProjectView {
    pub(super) fn of(project: &Project) -> Self {
        Self {
            object: "organization.project",
            id: project.id.to_string(),
            name: project.name.to_string(),
            created_at: project.created_s,
            archived_at: project.archived_s,
            status: if project.archived_s.is_some() { "archived" } else { "active" },
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProjectApiKey)]
pub(crate) struct ApiKeyView {
    object: &'static str,
    pub(super) id: String,
    name: String,
    /// Its first and last characters only.
    redacted_value: String,
    created_at: i64,
    last_used_at: Option<i64>,
    expires_at: Option<i64>,
    owner: KeyOwnerView,
    owner_project_access: &'static str,
}

/// The guard has no users: a key belongs to a service account or to the project.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProjectApiKeyOwner)]
struct KeyOwnerView {
    /// `service_account`, or null.
    #[serde(rename = "type")]
    kind: Option<&'static str>,
    /// Always null.
    user: Option<()>,
    service_account: Option<AccountView>,
}

impl ApiKeyView {
    pub(super) fn of(key: &Key, account: Option<&AccountRow>) -> Self {
        let used_ms = key.last_used_ms.load(Ordering::Relaxed);
        Self {
            object: "organization.project.api_key",
            id: key.id.to_string(),
            name: key.name.to_string(),
            redacted_value: key.redacted.to_string(),
            created_at: key.created_s,
            last_used_at: (used_ms > 0).then(|| used_ms.div_euclid(1_000)),
            expires_at: key.expires_s,
            owner: KeyOwnerView {
                kind: account.map(|_| "service_account"),
                user: None,
                service_account: account.map(AccountView::of),
            },
            owner_project_access: "active",
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ServiceAccount)]
pub(crate) struct AccountView {
    object: &'static str,
    pub(super) id: String,
    name: String,
    role: &'static str,
    created_at: i64,
}

impl AccountView {
    pub(super) fn of(account: &AccountRow) -> Self {
        Self {
            object: "organization.project.service_account",
            id: account.id.clone(),
            name: account.name.clone(),
            role: "member",
            created_at: account.created_s,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NewServiceAccount)]
pub(crate) struct NewAccountView {
    #[serde(flatten)]
    pub(super) account: AccountView,
    /// Null if it was created without a key.
    pub(super) api_key: Option<NewApiKeyView>,
}

/// A key with its secret, which is shown only once.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = NewServiceAccountKey)]
pub(crate) struct NewApiKeyView {
    object: &'static str,
    id: String,
    name: String,
    value: String,
    created_at: i64,
    expires_at: Option<i64>,
}

impl NewApiKeyView {
    pub(super) fn of(key: &Key, secret: &Secret) -> Self {
        Self {
            object: "organization.project.service_account.api_key",
            id: key.id.to_string(),
            name: key.name.to_string(),
            value: secret.expose().to_owned(),
            created_at: key.created_s,
            expires_at: key.expires_s,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AdminApiKey)]
pub(crate) struct AdminKeyView {
    object: &'static str,
    pub(super) id: String,
    name: String,
    redacted_value: String,
    /// The secret: only in the answer to creating the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// `full` or `read_only`.
    role: &'static str,
    created_at: i64,
    last_used_at: Option<i64>,
    expires_at: Option<i64>,
    owner: AdminOwnerView,
}

/// The owner of an admin key; the guard has no users.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AdminApiKeyOwner)]
struct AdminOwnerView {
    #[serde(rename = "type")]
    kind: &'static str,
    object: &'static str,
    role: &'static str,
}

impl AdminKeyView {
    pub(super) fn of(key: &AdminKey) -> Self {
        Self {
            object: "organization.admin_api_key",
            id: key.id.clone(),
            name: key.name.clone(),
            redacted_value: key.redacted.clone(),
            value: None,
            role: key.role.name(),
            created_at: key.created_s,
            last_used_at: key.used_s(),
            expires_at: key.expires_s,
            owner: AdminOwnerView { kind: "user", object: "organization.user", role: "owner" },
        }
    }

    /// The same with the secret, which is shown only once.
    pub(super) fn with_value(self, secret: &Secret) -> Self {
        Self { value: Some(secret.expose().to_owned()), ..self }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SpendLimit)]
pub(crate) struct SpendLimitView {
    pub(super) object: &'static str,
    /// In cents.
    pub(super) threshold_amount: i64,
    /// `USD`.
    pub(super) currency: &'static str,
    /// `month`.
    pub(super) interval: &'static str,
    pub(super) enforcement: EnforcementView,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Enforcement)]
pub(crate) struct EnforcementView {
    /// `enforcing` while the limit is used up and requests are refused, else `inactive`.
    pub(super) status: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SpendAlert)]
pub(crate) struct SpendAlertView {
    pub(super) object: &'static str,
    pub(super) id: String,
    /// In cents.
    pub(super) threshold_amount: i64,
    /// `USD`.
    pub(super) currency: &'static str,
    /// `month`.
    pub(super) interval: &'static str,
    pub(super) notification_channel: Channel,
}

#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = RateLimit)]
pub(crate) struct RateLimitView {
    pub(super) object: &'static str,
    pub(super) id: String,
    pub(super) model: String,
    pub(super) max_requests_per_1_minute: Option<i64>,
    pub(super) max_tokens_per_1_minute: Option<i64>,
    pub(super) max_requests_per_1_day: Option<i64>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModelPermissions)]
pub(crate) struct ModelPermissionsView {
    pub(super) object: &'static str,
    /// `allow_list` or `deny_list`.
    pub(super) mode: &'static str,
    pub(super) model_ids: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditLog)]
pub(crate) struct AuditView {
    pub(super) object: &'static str,
    pub(super) id: String,
    /// Such as `api_key.created`.
    #[serde(rename = "type")]
    pub(super) event: String,
    pub(super) effective_at: i64,
    /// The project of the change.
    pub(super) project: Option<NamedView>,
    pub(super) actor: ActorView,
    /// The details, under the name of the event.
    #[serde(flatten)]
    pub(super) details: BTreeMap<String, Value>,
    /// The state before.
    pub(super) before: Option<Value>,
    /// The state after.
    pub(super) after: Option<Value>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Named)]
pub(crate) struct NamedView {
    pub(super) id: String,
    pub(super) name: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Actor)]
pub(crate) struct ActorView {
    #[serde(rename = "type")]
    pub(super) kind: &'static str,
    pub(super) api_key: NamedView,
}

//! The OpenAPI document of the admin API, made from its routes.
//!
//! Each handler states its own method, path, query, body and answer. The common
//! parts are added here, once: the parameters and the tag follow from the path, the
//! required role from the method, the errors from both.

use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Array, Components, ContentBuilder, ObjectBuilder, OpenApi, PathItem, Ref, RefOr, Required,
    ResponseBuilder, Schema, Type,
};
use utoipa::{PartialSchema as _, ToSchema as _};

use crate::admin::error::ErrorView;

const DESCRIPTION: &str = "Keys, limits, the ledger and what follows from them. Paths under `/guard/v1` are the guard's own; \
    those under `/v1/organization` have the paths and shapes of OpenAI's admin API, so that its packages work with it unchanged.

Under `/guard/v1` amounts of money are exact decimal texts in US dollars, and times are Unix seconds; under `/v1/organization` \
    amounts are as OpenAI has them. Lists come in pages: for the next page, pass the `last_id` of the previous one as `after`. \
    Unknown parameters and fields are errors. This document contains no secret and needs no token.";
const TOKEN: &str = "token";
const TOKEN_DESCRIPTION: &str = "The admin token, or the value of an admin key. Changes need the role `full`; reading needs only `read_only`.";

/// Descriptions of the parameters in paths.
const NAMES: &[(&str, &str)] = &[
    ("account", "The id of a service account."),
    ("alert", "The id of a spend alert."),
    ("entry", "The id of an entry of the ledger."),
    ("fuse", "The name of a fuse."),
    ("key", "The id of a key."),
    ("limit", "The name of a limit."),
    ("project", "The id of a project."),
    ("rate", "The id of a rate limit: `rl-` and the name of a model."),
    ("subject", "`organization`, or the id of a project or key."),
];

/// Descriptions of successful answers, by status.
const ANSWERS: &[(&str, &str)] =
    &[("200", "The result."), ("201", "The object that was created."), ("204", "The object was removed.")];

/// Error answers by status: the name of the component, and when it is sent.
const ERRORS: &[(&str, &str, &str)] = &[
    ("400", "BadRequest", "A parameter, a name in the path or the body is not valid."),
    ("401", "Unauthorized", "The token is missing or not valid."),
    ("403", "Forbidden", "The admin key is read-only."),
    ("404", "NotFound", "Nothing has this name."),
    ("409", "Conflict", "The present state does not allow the change."),
    ("413", "TooLarge", "The body is larger than 1 MiB."),
    ("415", "NotJson", "The content type of the body is not JSON."),
    ("422", "NotThatShape", "The body is JSON, but does not match the schema."),
    (
        "429",
        "TooManyAttempts",
        "Too many wrong tokens were sent; `retry-after` is the time until the next attempt is checked.",
    ),
    ("5XX", "ServerError", "The ledger can't be used right now. Nothing was changed."),
];

/// Completes the document that the routes make.
pub(super) fn complete(mut document: OpenApi) -> OpenApi {
    "spendguard: admin API".clone_into(&mut document.info.title);
    env!("CARGO_PKG_VERSION").clone_into(&mut document.info.version);
    document.info.description = Some(DESCRIPTION.to_owned());
    document.info.license = None;
    document.info.contact = None;
    document.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>(TOKEN, [])]);
    let components = document.components.get_or_insert_default();
    add_errors(components);
    name_items(components);
    components.security_schemes.insert(TOKEN.to_owned(), scheme());
    for (path, item) in &mut document.paths.paths {
        let PathItem { get, put, post, delete, patch, .. } = item;
        let all = [("get", get), ("put", put), ("post", post), ("delete", delete), ("patch", patch)];
        for (method, operation) in all {
            if let Some(operation) = operation {
                complete_operation(path, method, operation);
            }
        }
    }
    document
}

fn scheme() -> RefOr<SecurityScheme> {
    let mut scheme = Http::new(HttpAuthScheme::Bearer);
    scheme.description = Some(TOKEN_DESCRIPTION.to_owned());
    RefOr::T(SecurityScheme::Http(scheme))
}

/// Refers to the schema of a list's items by name instead of repeating it.
fn name_items(components: &mut Components) {
    let names: Vec<String> = components.schemas.keys().cloned().collect();
    for name in names {
        let Some(item) = name.strip_prefix("List_") else { continue };
        if let Some(RefOr::T(Schema::Object(list))) = components.schemas.get_mut(&name) {
            let items = Array::new(Ref::from_schema_name(item));
            list.properties.insert("data".to_owned(), RefOr::T(Schema::Array(items)));
        }
    }
}

fn add_errors(components: &mut Components) {
    let mut schemas = Vec::new();
    ErrorView::schemas(&mut schemas);
    schemas.push((ErrorView::name().into_owned(), ErrorView::schema()));
    components.schemas.extend(schemas);
    for (_, name, description) in ERRORS {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(ErrorView::name()))).build();
        let response = ResponseBuilder::new().description(*description).content("application/json", content);
        components.responses.insert((*name).to_owned(), response.build().into());
    }
}

fn complete_operation(path: &str, method: &str, operation: &mut Operation) {
    let parts: Vec<&str> = path.split('/').filter(|part| !["", "v1"].contains(part)).collect();
    let names: Vec<&str> =
        parts.iter().filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
    let words: Vec<&str> = parts.iter().map(|part| part.trim_matches(['{', '}'])).collect();
    operation.operation_id = Some(format!("{method}_{}", words.join("_")));
    operation.tags = Some(vec![tag(&parts)]);
    let parameters = operation.parameters.get_or_insert_default();
    for (at, name) in names.iter().enumerate() {
        let is_it = |known: &RefOr<Parameter>| matches!(known, RefOr::T(known) if known.name == *name && known.parameter_in == ParameterIn::Path);
        if !parameters.iter().any(is_it) {
            parameters.insert(at, parameter(name).into());
        }
    }
    let takes_any = !parameters.is_empty() || operation.request_body.is_some();
    let changes = method != "get";
    if changes {
        operation.security = Some(vec![SecurityRequirement::new(TOKEN, ["full"])]);
    }
    for (status, name, _) in ERRORS {
        let may_come = match *status {
            "400" => takes_any,
            "403" | "409" => changes,
            "404" => !names.is_empty(),
            "413" | "415" | "422" => operation.request_body.is_some(),
            _ => true,
        };
        if may_come {
            operation.responses.responses.insert((*status).to_owned(), Ref::from_response_name(*name).into());
        }
    }
    for (status, response) in &mut operation.responses.responses {
        let said = ANSWERS.iter().find(|(known, _)| known == status);
        if let (RefOr::T(response), Some((_, description))) = (response, said) {
            (*description).clone_into(&mut response.description);
        }
    }
}

fn parameter(name: &str) -> Parameter {
    let description = NAMES.iter().find(|(known, _)| *known == name).map(|(_, description)| *description);
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(description)
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .build()
}

/// The tag of a path: the first word after its root, or after a project's name.
fn tag(parts: &[&str]) -> String {
    let (root, rest) = parts.split_first().unwrap_or((&"", &[]));
    let about = match rest {
        ["projects", "{project}", about, ..] if *root == "organization" && *about != "archive" => about,
        [about, ..] => about,
        [] => root,
    };
    format!("{root}: {about}")
}

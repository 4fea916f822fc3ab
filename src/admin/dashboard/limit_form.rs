//! The form that makes and changes a limit.
//!
//! Its fields become the text form that the API takes, so that both are checked
//! in one place. An error is shown at its field.

use std::collections::BTreeMap;

use axum::extract::rejection::FormRejection;
use axum::extract::{Form, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use maud::{Markup, html};
use serde::Deserialize;

use crate::admin::dashboard::figures::{self, is_spaced};
use crate::admin::dashboard::language::Lang;
use crate::admin::dashboard::limits::{LimitName, per, unit};
use crate::admin::dashboard::page::{PageRequest, PageResult};
use crate::admin::dashboard::{Dashboard, limit_trial, names, parts, see_other};
use crate::admin::limits::named;
use crate::domain::Window;
use crate::domain::limit::{Mode, Per, Source, Unit};
use crate::rulebook::limits::LimitError;
use crate::rulebook::rule::{LimitRule, OnlyRule};

pub(super) fn routes() -> Router<Dashboard> {
    let router = Router::new().route("/limits", post(put)).route("/limits/try", post(try_it));
    router.route("/limits/new", get(new)).route("/limits/edit", get(edit))
}

/// The choice of a meter for each value of a tag.
const TAG: &str = "tag";

/// The fields as they are typed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct LimitForm {
    /// `new` for one that must not be there yet.
    is: String,
    name: String,
    /// The name of a choice; that of a tag is in `tag_name`.
    per: String,
    tag_name: String,
    unit: String,
    window: String,
    zone: String,
    hard: String,
    soft: String,
    shadow: Option<String>,
    projects: String,
    keys: String,
    models: String,
    tags: String,
}

impl LimitForm {
    fn blank() -> Self {
        Self {
            is: "new".to_owned(),
            per: Per::Organization.name().into_owned(),
            unit: Unit::Usd.name().to_owned(),
            window: Window::Month.name().to_owned(),
            soft: "50% 80%".to_owned(),
            ..Self::default()
        }
    }

    fn of(name: &str, rule: LimitRule, lang: Lang) -> Self {
        let point = |text: String| if is_spaced(lang) { text.replace('.', ",") } else { text };
        let tag = |(tag, values): (&String, &Vec<String>)| {
            values.iter().map(|value| format!("{tag}={value}")).collect::<Vec<_>>().join("\n")
        };
        let (per, tag_name) = match rule.per.split_once(':') {
            Some((of_tag, name)) => (of_tag.to_owned(), name.to_owned()),
            None => (rule.per, String::new()),
        };
        Self {
            is: String::new(),
            name: name.to_owned(),
            tag_name,
            shadow: (rule.mode == Mode::Shadow.name()).then(String::new),
            per,
            unit: rule.unit,
            window: rule.window,
            zone: rule.zone.unwrap_or_default(),
            hard: point(rule.hard.unwrap_or_default()),
            soft: point(rule.soft.join(" ")),
            projects: rule.only.project.join("\n"),
            keys: rule.only.key.join("\n"),
            models: rule.only.model.join("\n"),
            tags: rule.only.tag.iter().map(tag).collect::<Vec<_>>().join("\n"),
        }
    }

    /// The rule that was typed; a line of tags without `=` is at fault.
    fn rule(&self, lang: Lang) -> Result<LimitRule, &'static str> {
        // Where a comma parts fractions it may be typed; elsewhere it is no
        // part of an amount, since it could be meant to part thousands.
        let point = |text: &str| if is_spaced(lang) { text.replace(',', ".") } else { text.to_owned() };
        let lines = |text: &str| {
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        let mut tag: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in lines(&self.tags) {
            let (name, value) = line.split_once('=').ok_or("tag")?;
            tag.entry(name.trim().to_owned()).or_default().push(value.trim().to_owned());
        }
        let hard = self.hard.trim();
        let mode = if self.shadow.is_some() { Mode::Shadow } else { Mode::Enforce };
        Ok(LimitRule {
            per: if self.per == TAG { format!("{TAG}:{}", self.tag_name.trim()) } else { self.per.clone() },
            only: OnlyRule {
                project: lines(&self.projects),
                key: lines(&self.keys),
                model: lines(&self.models),
                tag,
            },
            unit: self.unit.clone(),
            window: self.window.clone(),
            zone: Some(self.zone.trim().to_owned()).filter(|zone| !zone.is_empty()),
            soft: self.soft.split_whitespace().map(point).collect(),
            hard: (!hard.is_empty()).then(|| point(hard)),
            mode: mode.name().to_owned(),
        })
    }

    fn is_new(&self) -> bool {
        self.is == "new"
    }

    fn title(&self, lang: Lang) -> &'static str {
        let words = lang.words();
        if self.is_new() { words.new_limit } else { words.edit_limit }
    }
}

/// An error of a field.
struct FormError {
    field: &'static str,
    text: &'static str,
}

impl FormError {
    fn at(field: &'static str, lang: Lang) -> Self {
        let words = lang.words();
        let text = match field {
            // The other choices can't be wrong.
            "per" => return Self { field: "tag_name", text: words.bad_tag_name },
            "name" => words.bad_limit_name,
            "hard" => words.bad_hard,
            "soft" => words.bad_soft,
            "zone" => words.bad_zone,
            "tag" => words.bad_tag,
            "only" => words.bad_only,
            _ => words.bad_choice,
        };
        Self { field, text }
    }
}

async fn new(State(dashboard): State<Dashboard>, Extension(request): Extension<PageRequest>) -> PageResult {
    Ok(request
        .page(request.words().new_limit, &view(&dashboard, &request, &LimitForm::blank(), &Said::Nothing)))
}

async fn edit(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    Query(LimitName { name }): Query<LimitName>,
) -> PageResult {
    let found = named(&dashboard.admin, &name).filter(|listed| listed.limit.source == Source::Api);
    let limit = found.ok_or_else(|| request.not_found())?.limit;
    let form = LimitForm::of(&name, LimitRule::of(&limit), request.lang);
    Ok(request.page(request.words().edit_limit, &view(&dashboard, &request, &form, &Said::Nothing)))
}

async fn put(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    sent: Result<Form<LimitForm>, FormRejection>,
) -> PageResult {
    let (lang, words) = (request.lang, request.words());
    let Form(mut form) = sent.unwrap_or_else(|_| Form(LimitForm::blank()));
    form.name = form.name.trim().to_owned();
    let taken = form.is_new() && named(&dashboard.admin, &form.name).is_some();
    let problem = if taken {
        FormError { field: "name", text: words.limit_exists }
    } else {
        match form.rule(lang) {
            Err(field) => FormError::at(field, lang),
            Ok(rule) => match dashboard.admin.rulebook.put_limit(&form.name, &rule, &request.actor).await {
                Ok(_) => return Ok(see_other("/limits")),
                Err(LimitError::Store(error)) => return Err(request.unavailable(&error)),
                Err(LimitError::Rule(error)) => FormError::at(error.field, lang),
                Err(LimitError::Name(_)) => FormError::at("only", lang),
                Err(LimitError::ManagedByFile(_)) => FormError { field: "name", text: words.limit_of_file },
                Err(LimitError::ManagedAsAlert(_)) => FormError { field: "name", text: words.limit_is_alert },
                Err(
                    LimitError::NoSuchLimit(_)
                    | LimitError::NoSuchAlert(_)
                    | LimitError::TooManyAlerts(_)
                    | LimitError::Random(_),
                ) => return Err(request.not_found()),
            },
        }
    };
    Ok(wrong(&dashboard, &request, &form, problem))
}

/// The form again, with what is wrong with it.
fn wrong(dashboard: &Dashboard, request: &PageRequest, form: &LimitForm, problem: FormError) -> Response {
    let body = view(dashboard, request, form, &Said::Wrong(problem));
    request.with_status(StatusCode::UNPROCESSABLE_ENTITY, form.title(request.lang), &body)
}

/// Shows what the limit of a form would have rejected, above the form.
async fn try_it(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    sent: Result<Form<LimitForm>, FormRejection>,
) -> PageResult {
    let Form(form) = sent.unwrap_or_else(|_| Form(LimitForm::blank()));
    let rule = match form.rule(request.lang) {
        Ok(rule) => rule,
        Err(field) => return Ok(wrong(&dashboard, &request, &form, FormError::at(field, request.lang))),
    };
    match limit_trial::tried(&dashboard, &request, form.name.trim(), rule).await? {
        Ok(found) => {
            let body = view(&dashboard, &request, &form, &Said::Tried(found));
            Ok(request.page(form.title(request.lang), &body))
        }
        Err(field) => Ok(wrong(&dashboard, &request, &form, FormError::at(field, request.lang))),
    }
}

/// What is said above a form.
enum Said {
    Nothing,
    Wrong(FormError),
    /// What a trial has found.
    Tried(Markup),
}

impl Said {
    fn problem(&self) -> Option<&FormError> {
        match self {
            Self::Wrong(problem) => Some(problem),
            Self::Nothing | Self::Tried(_) => None,
        }
    }

    fn markup(&self) -> Markup {
        match self {
            Self::Nothing => html! {},
            Self::Wrong(problem) => html! { p.notice.bad role="alert" id="problem" { (problem.text) } },
            Self::Tried(found) => found.clone(),
        }
    }
}

fn view(dashboard: &Dashboard, request: &PageRequest, form: &LimitForm, said: &Said) -> Markup {
    let (lang, words) = (request.lang, request.words());
    let pers = Per::UNTAGGED.map(|value| (value.name(), per(lang, &value)));
    let pers = pers.iter().map(|(name, text)| (&**name, &**text));
    let pers: Vec<_> = pers.chain([(TAG, words.value_of_a_tag)]).collect();
    let units = Unit::ALL.map(|value| (value.name(), unit(lang, value)));
    let windows = Window::ALL.map(|value| (value.name(), figures::window(lang, value)));
    let text = |name, label, value, hint| input(name, label, value, hint, said.problem());
    let zone = dashboard.admin.in_force.load().zone.to_string();
    html! {
        (parts::heading(form.title(lang), None, &html! {}))
        form.card.narrow method="post" action="/limits" {
            (request.csrf_field())
            input type="hidden" name="is" value=(form.is);
            (said.markup())
            @if form.is_new() {
                (text("name", words.name, &form.name, words.limit_name_hint))
            } @else {
                input type="hidden" name="name" value=(form.name);
                p { strong { (names::name(&form.name)) } }
            }
            div.pair {
                (choice("unit", words.unit, &form.unit, &units))
                (choice("window", words.window, &form.window, &windows))
            }
            (choice("per", words.counted_per, &form.per, &pers))
            (text("tag_name", words.tag_name, &form.tag_name, words.tag_name_hint))
            (text("hard", words.hard_limit, &form.hard, words.hard_limit_hint))
            (text("soft", words.soft_limit, &form.soft, words.soft_limit_hint))
            div.field.check {
                input #shadow type="checkbox" name="shadow" value="on" checked[form.shadow.is_some()]
                    aria-describedby="shadow-hint";
                label for="shadow" { (words.shadow) }
                p.hint #shadow-hint { (words.shadow_hint) }
            }
            details open[is_narrowed(form)] {
                summary { (words.narrow_down) }
                p.hint { (words.narrow_down_hint) }
                (area("projects", words.project, &form.projects))
                (area("keys", words.key, &form.keys))
                (area("models", words.model, &form.models))
                (area("tags", words.tags, &form.tags))
                (text("zone", words.time_zone, &form.zone, &words.time_zone_hint.replace("{zone}", &zone)))
            }
            div.actions {
                button.button.primary type="submit" { (words.save) }
                button.button type="submit" formaction="/limits/try" { (words.try_limit) }
                a.button href="/limits" { (words.cancel) }
            }
        }
    }
}

fn is_narrowed(form: &LimitForm) -> bool {
    [&form.projects, &form.keys, &form.models, &form.tags].into_iter().any(|text| !text.is_empty())
}

fn input(name: &str, label: &str, value: &str, hint: &str, problem: Option<&FormError>) -> Markup {
    let is_wrong = problem.is_some_and(|problem| problem.field == name);
    let described = if is_wrong { format!("{name}-hint problem") } else { format!("{name}-hint") };
    html! {
        div.field {
            label for=(name) { (label) }
            input id=(name) name=(name) value=(value) autocomplete="off" maxlength="1024"
                required[name == "name"] aria-invalid=[is_wrong.then_some("true")] aria-describedby=(described);
            p.hint id={ (name) "-hint" } { (hint) }
        }
    }
}

fn choice(name: &str, label: &str, chosen: &str, all: &[(&str, &str)]) -> Markup {
    html! {
        div.field {
            label for=(name) { (label) }
            select id=(name) name=(name) { (parts::options(chosen, all.iter().copied())) }
        }
    }
}

fn area(name: &str, label: &str, value: &str) -> Markup {
    html! {
        div.field {
            label for=(name) { (label) }
            textarea id=(name) name=(name) rows="2" spellcheck="false" { (value) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_survives_its_form_in_every_language() {
        let text = r#"{"per":"key","only":{"project":["a b"],"tag":{"team":["x","y"]}},"unit":"usd","window":"month",
            "zone":"Europe/Warsaw","soft":["50%","3.5"],"hard":"24.25","mode":"shadow"}"#;
        let rule: LimitRule = serde_json::from_str(text).unwrap();
        for lang in Lang::ALL {
            for per in ["key", "tag:run"] {
                let rule = LimitRule { per: per.to_owned(), ..rule.clone() };
                assert_eq!(LimitForm::of("m", rule.clone(), lang).rule(lang), Ok(rule));
            }
        }
    }

    #[test]
    fn a_comma_is_a_fraction_where_it_is_written_so_and_nothing_elsewhere() {
        let form = LimitForm { hard: "1,000".to_owned(), ..LimitForm::blank() };
        assert_eq!(form.rule(Lang::Pl).unwrap().hard.unwrap(), "1.000");
        let english = form.rule(Lang::En).unwrap().limit("m", "UTC");
        assert_eq!(english.unwrap_err().field, "hard", "a thousand must not become one");
    }
}

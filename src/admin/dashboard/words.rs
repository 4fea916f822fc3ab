//! Every text of every page. A language that lacks one does not compile.
//!
//! Names that begin with `n_` are counts: their forms stand between bars, as
//! many as the language has, and `{n}` is where the number goes.

mod en;
mod ja;
mod ka;
mod pl;

pub(super) use en::EN;
pub(super) use ja::JA;
pub(super) use ka::KA;
pub(super) use pl::PL;

macro_rules! words {
    ($($name:ident)*) => {
        /// The texts of one language.
        #[derive(Debug)]
        pub(super) struct Words { $(pub(super) $name: &'static str,)* }

        #[cfg(test)]
        impl Words {
            /// Each text with its name.
            fn each(&self) -> Vec<(&'static str, &'static str)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }
    };
}

words! {
    // Around every page.
    overview api_keys usage limits activity settings skip navigation language sign_in sign_out months
    // Signing in.
    sign_in_how admin_token admin_token_where wrong_token too_many_attempts
    // Errors.
    form_stale form_too_large not_done no_such_thing ledger_unavailable
    // Words of many pages.
    name project key model end_user day days status created last_used time cost spend requests tokens
    input_tokens output_tokens share actions none never all show_all apply cancel save edit remove pages
    previous next today this_month last_month settled held remaining used_up resets only tags unit window
    whole_organization us_dollars time_zone nothing_found nothing_found_how
    n_requests n_tokens n_input_tokens n_output_tokens n_open n_days n_more n_refused
    window_request window_minute window_hour window_day window_week window_month window_quarter window_year window_total
    // Overview.
    month_forecast forecast_range no_forecast held_now all_limits last_days spend_per_day no_usage no_usage_how top_keys
    top_models all_usage nothing_this_month jobs n_jobs background_responses batches containers
    vector_stores
    // API keys.
    api_keys_lead create_key create_key_lead secret spend_this_month search_keys no_keys no_keys_how active
    expired revoked key_name_hint expires_after no_expiry models_allowed models_allowed_hint bad_name no_such_project
    key_created key_created_lead shown_once copy copied done revoke revoke_key revoke_key_lead
    // Usage.
    bad_days of_them_cached of_them_reasoning no_end_user the_rest from_day to_day group_by totals total
    values_per_day download_csv
    // Limits.
    limits_lead new_limit edit_limit no_limits no_limits_how nothing_counted no_hard_limit shadow shadow_hint
    from_file rate rate_lead request_lead counted_per soft_limit soft_limit_hint hard_limit hard_limit_hint
    limit_name_hint narrow_down narrow_down_hint time_zone_hint remove_limit remove_limit_lead
    try_limit trial trial_lead trial_requests trial_rejected trial_cost trial_first trial_of_rate trial_too_long
    value_of_a_tag value_of_this_tag tag_name tag_name_hint bad_tag_name
    bad_limit_name bad_hard bad_soft bad_zone bad_tag bad_only bad_choice limit_exists limit_of_file limit_is_alert
    // Stops.
    stopped allowed_again spending_stopped kill_switch fuse fuses fuses_lead no_fuses since cools_down times_usual
    n_minutes stop_spending stop_spending_lead allow_spending allow_spending_lead reset_fuse reset_fuse_lead
    // Activity.
    activity_lead refused nothing_refused look_further no_activity_how kind basis client_left
    kind_settle kind_release kind_adjust kind_threshold kind_grant basis_reported basis_counted basis_assumed
    // Open sockets.
    sockets sockets_lead sockets_of_one_guard no_sockets no_sockets_how n_sockets opened endpoint
    // Projects.
    projects projects_lead create_project project_name_hint rename rename_project archive archive_project
    archive_project_lead archived n_keys
    // Live activity, and the audit log.
    live paused reason audit_trail audit_lead who what before_after was_created was_changed was_removed
    was_archived limit admin_key service_account spend_alert model_permissions no_changes no_changes_how
    // First steps.
    first_steps first_steps_lead step_name step_key step_limits step_call step_call_how skip_step
    hide_steps
    // Billing.
    billing billing_lead credit credit_balance granted spent expires credit_history no_credit no_credit_how add_credit
    add_credit_lead amount amount_hint note note_hint bad_credit credit_shadow credit_used_up
    // Settings of the organization and of alerts.
    read_only organization organization_hint named_by_file save_changes saved alert_channels
    alert_channels_lead no_channels no_channels_how email webhook n_waiting nothing_sent delivered
    not_delivered send_test test_sent test_failed
    // Settings.
    language_lead this_guard version prices_as_of ledger ledger_sound in_force in_force_lead
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::dashboard::language::Lang;

    /// Texts that two languages rightly have in common.
    const ALIKE: [&str; 5] = ["model", "status", "limit", "webhook", "kind_threshold"];

    #[test]
    fn no_language_leaves_a_text_in_another_or_empty() {
        for lang in Lang::ALL {
            for other in Lang::ALL.into_iter().filter(|other| *other != lang) {
                for ((name, mine), (_, theirs)) in lang.words().each().into_iter().zip(other.words().each()) {
                    assert!(!mine.trim().is_empty(), "{lang:?} {name}");
                    assert!(mine != theirs || ALIKE.contains(&name), "{lang:?} {other:?} {name}: {mine}");
                }
            }
        }
    }

    #[test]
    fn every_text_is_in_its_language_and_names_what_english_names() {
        let georgian = |c: char| ('\u{10d0}'..='\u{10ff}').contains(&c);
        let japanese =
            |c: char| ('\u{3040}'..='\u{30ff}').contains(&c) || ('\u{4e00}'..='\u{9fff}').contains(&c);
        for lang in Lang::ALL {
            for ((name, text), (_, english)) in lang.words().each().into_iter().zip(EN.each()) {
                let (has_ka, has_ja) = (text.contains(georgian), text.contains(japanese));
                assert_eq!((has_ka, has_ja), (lang == Lang::Ka, lang == Lang::Ja), "{lang:?} {name}: {text}");
                for place in ["{n}", "{what}", "{zone}"] {
                    assert_eq!(text.contains(place), english.contains(place), "{lang:?} {name}: {place}");
                }
            }
        }
    }

    #[test]
    fn counts_have_as_many_forms_as_their_language_and_years_twelve_months() {
        for (lang, forms) in [(Lang::En, 2), (Lang::Pl, 3), (Lang::Ka, 1), (Lang::Ja, 1)] {
            for (name, text) in lang.words().each().into_iter().filter(|(name, _)| name.starts_with("n_")) {
                assert_eq!(text.split('|').count(), forms, "{lang:?} {name}");
            }
            assert_eq!(lang.words().months.split(' ').count(), 12, "{lang:?}");
        }
    }
}

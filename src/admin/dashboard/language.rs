//! The four languages: which one a reader gets.

use axum::http::{HeaderMap, header};

use crate::admin::dashboard::session;
use crate::admin::dashboard::words::{EN, JA, KA, PL, Words};

/// The cookie that remembers a choice.
pub(super) const COOKIE: &str = "spendguard_language";

/// A language of the dashboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lang {
    En,
    Ka,
    Ja,
    Pl,
}

impl Lang {
    pub(super) const ALL: [Self; 4] = [Self::En, Self::Ka, Self::Ja, Self::Pl];

    /// Its code in `lang` attributes, headers and the cookie.
    pub(super) const fn code(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Ka => "ka",
            Self::Ja => "ja",
            Self::Pl => "pl",
        }
    }

    /// Its name in the language itself.
    pub(super) const fn own_name(self) -> &'static str {
        match self {
            Self::En => "English",
            Self::Ka => "ქართული",
            Self::Ja => "日本語",
            Self::Pl => "Polski",
        }
    }

    pub(super) fn named(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|lang| lang.code() == code)
    }

    /// Every text of every page.
    pub(super) const fn words(self) -> &'static Words {
        match self {
            Self::En => &EN,
            Self::Ka => &KA,
            Self::Ja => &JA,
            Self::Pl => &PL,
        }
    }

    /// The chosen language, else the one the browser likes best, else English.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let chosen = session::cookie(headers, COOKIE).and_then(Self::named);
        let liked = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
        chosen.or_else(|| liked.and_then(Self::liked)).unwrap_or(Self::En)
    }

    /// The best of an `Accept-Language` that we have; of equals the first.
    fn liked(accept: &str) -> Option<Self> {
        let weighed = accept.split(',').filter_map(|part| {
            let (tag, rest) = part.split_once(';').unwrap_or((part, ""));
            let primary = tag.trim().split('-').next().unwrap_or_default().to_ascii_lowercase();
            let weight = rest.trim().strip_prefix("q=").map_or(1_000, thousandths);
            Some((Self::named(&primary)?, weight)).filter(|(_, weight)| *weight > 0)
        });
        let best = weighed.reduce(|best, next| if next.1 > best.1 { next } else { best });
        best.map(|(lang, _)| lang)
    }
}

/// A weight such as `0.8`, in thousandths.
fn thousandths(text: &str) -> u32 {
    let (whole, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    let fraction: String = fraction.chars().chain("000".chars()).take(3).collect();
    format!("{whole}{fraction}").parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_liked_best_of_those_there_are_is_taken() {
        for (accept, lang) in [
            ("pl-PL,pl;q=0.9,en;q=0.8", Some(Lang::Pl)),
            ("de, en;q=0.5, ja;q=0.7", Some(Lang::Ja)),
            ("ka;q=0, en;q=0.1", Some(Lang::En)),
            ("KA-ge", Some(Lang::Ka)),
            ("pl;q=0.5, ja;q=0.5", Some(Lang::Pl)),
            ("en;q=0.25, pl;q=0.3", Some(Lang::Pl)),
            ("de, fr", None),
            ("", None),
            ("pl;q=no", None),
        ] {
            assert_eq!(Lang::liked(accept), lang, "{accept}");
        }
    }
}

//! A plain reader of JSON (RFC 8259), independent of the one in the guard.
//!
//! It keeps all that other readers may differ about: members in their order,
//! twice if they stand twice; numbers as they are written; texts as UTF-16, so
//! that a lone surrogate is kept too.

/// A value as it was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Json {
    Null,
    Bool(bool),
    Number(String),
    Text(Vec<u16>),
    List(Vec<Json>),
    Object(Vec<(Vec<u16>, Json)>),
}

/// Reads one value and nothing after it; `None` if it isn't JSON.
pub fn read(bytes: &[u8]) -> Option<Json> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut reader = Reader { rest: text };
    let value = reader.value()?;
    reader.skip_space();
    reader.rest.is_empty().then_some(value)
}

/// A text as the reader keeps it.
pub fn text(text: &str) -> Json {
    Json::Text(text.encode_utf16().collect())
}

/// A whole number as the reader keeps it.
pub fn number(number: u64) -> Json {
    Json::Number(number.to_string())
}

impl Json {
    /// The member of that name: the last one, as most readers take it.
    pub fn get(&self, name: &str) -> Option<&Self> {
        let wanted: Vec<u16> = name.encode_utf16().collect();
        self.members().iter().rev().find(|(key, _)| *key == wanted).map(|(_, value)| value)
    }

    /// The member of that name, unless it is `null`.
    pub fn given(&self, name: &str) -> Option<&Self> {
        self.get(name).filter(|value| **value != Self::Null)
    }

    /// The members of an object; none for anything else.
    pub fn members(&self) -> &[(Vec<u16>, Self)] {
        if let Self::Object(members) = self { members } else { &[] }
    }

    /// The elements of a list; none for anything else.
    pub fn elements(&self) -> &[Self] {
        if let Self::List(elements) = self { elements } else { &[] }
    }

    /// The text, if it is one without lone surrogates.
    pub fn as_text(&self) -> Option<String> {
        if let Self::Text(units) = self { String::from_utf16(units).ok() } else { None }
    }

    /// The whole number, if it is written as one.
    pub fn as_count(&self) -> Option<u64> {
        if let Self::Number(digits) = self { digits.parse().ok() } else { None }
    }

    /// How often a member of that name stands in an object.
    pub fn times(&self, name: &str) -> usize {
        let wanted: Vec<u16> = name.encode_utf16().collect();
        self.members().iter().filter(|(key, _)| *key == wanted).count()
    }

    /// Sets a member where it stands, or adds it.
    pub fn set(&mut self, name: &str, value: Self) {
        let wanted: Vec<u16> = name.encode_utf16().collect();
        let Self::Object(members) = self else { return *self = Self::Object(vec![(wanted, value)]) };
        match members.iter_mut().rev().find(|(key, _)| *key == wanted) {
            Some((_, old)) => *old = value,
            None => members.push((wanted, value)),
        }
    }

    /// The value with the members of its objects sorted by name. Members of one
    /// name keep their order.
    pub fn sorted(self) -> Self {
        match self {
            Self::List(elements) => Self::List(elements.into_iter().map(Self::sorted).collect()),
            Self::Object(members) => {
                let mut members: Vec<_> =
                    members.into_iter().map(|(key, value)| (key, value.sorted())).collect();
                members.sort_by(|(a, _), (b, _)| a.cmp(b));
                Self::Object(members)
            }
            other => other,
        }
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn eat(&mut self, token: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(token)?;
        Some(())
    }

    fn value(&mut self) -> Option<Json> {
        self.skip_space();
        match self.rest.bytes().next()? {
            b'n' => self.eat("null").map(|()| Json::Null),
            b't' => self.eat("true").map(|()| Json::Bool(true)),
            b'f' => self.eat("false").map(|()| Json::Bool(false)),
            b'"' => self.string().map(Json::Text),
            b'[' => self.list(),
            b'{' => self.object(),
            _ => self.number(),
        }
    }

    fn list(&mut self) -> Option<Json> {
        self.eat("[")?;
        let mut elements = Vec::new();
        self.skip_space();
        if self.eat("]").is_some() {
            return Some(Json::List(elements));
        }
        loop {
            elements.push(self.value()?);
            self.skip_space();
            if self.eat("]").is_some() {
                return Some(Json::List(elements));
            }
            self.eat(",")?;
        }
    }

    fn object(&mut self) -> Option<Json> {
        self.eat("{")?;
        let mut members = Vec::new();
        self.skip_space();
        if self.eat("}").is_some() {
            return Some(Json::Object(members));
        }
        loop {
            self.skip_space();
            let key = self.string()?;
            self.skip_space();
            self.eat(":")?;
            members.push((key, self.value()?));
            self.skip_space();
            if self.eat("}").is_some() {
                return Some(Json::Object(members));
            }
            self.eat(",")?;
        }
    }

    fn digits(&mut self) -> Option<()> {
        let rest = self.rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let some = rest.len() < self.rest.len();
        self.rest = rest;
        some.then_some(())
    }

    fn number(&mut self) -> Option<Json> {
        let whole = self.rest;
        let _ = self.eat("-");
        if self.eat("0").is_none() {
            self.digits()?;
        }
        if self.eat(".").is_some() {
            self.digits()?;
        }
        if self.eat("e").or_else(|| self.eat("E")).is_some() {
            let _ = self.eat("+").or_else(|| self.eat("-"));
            self.digits()?;
        }
        Some(Json::Number(whole[..whole.len() - self.rest.len()].to_owned()))
    }

    fn string(&mut self) -> Option<Vec<u16>> {
        self.eat("\"")?;
        let mut units = Vec::new();
        loop {
            let next = self.rest.chars().next()?;
            self.rest = &self.rest[next.len_utf8()..];
            match next {
                '"' => return Some(units),
                '\\' => units.push(self.escape()?),
                '\0'..='\u{1f}' => return None,
                other => units.extend_from_slice(other.encode_utf16(&mut [0; 2])),
            }
        }
    }

    fn escape(&mut self) -> Option<u16> {
        let kind = self.rest.chars().next()?;
        self.rest = &self.rest[kind.len_utf8()..];
        Some(match kind {
            '"' | '\\' | '/' => kind as u16,
            'b' => 8,
            'f' => 12,
            'n' => 10,
            'r' => 13,
            't' => 9,
            'u' => {
                let digits = self.rest.get(..4).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))?;
                self.rest = &self.rest[4..];
                u16::from_str_radix(digits, 16).ok()?
            }
            _ => return None,
        })
    }
}

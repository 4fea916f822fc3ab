//! Reads a form as it passes, without input or output.
//!
//! It takes the forms that [`parts`](super::parts) takes and refuses those that it refuses,
//! however their bytes are cut. Content is lent from the bytes that are fed; only what may
//! be the start of a boundary is kept until the next ones.

use memchr::memmem;

use super::{FormError, HEAD_BYTES_MAX, PARTS_MAX, named};

/// The blank line between the head of a part and its content.
const BLANK_LINE: &[u8] = b"\r\n\r\n";

/// What is found in a form, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormEvent<'a> {
    /// A part begins.
    Part {
        /// The name of the field.
        name: &'a str,
        /// The name of the file, if it has one.
        file_name: Option<&'a str>,
    },
    /// Content of the part that began last, never empty.
    Data(&'a [u8]),
    /// The last boundary was read.
    End,
}

/// Where in the form the next byte is.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In the first boundary.
    Start,
    /// In the two bytes behind a boundary.
    BehindBoundary,
    /// In the head of a part.
    Head,
    /// In the content of a part.
    Content,
    /// Behind the last boundary.
    End,
    /// Behind what can't be read, or could be read in two ways.
    Refused(FormError),
}

/// A reader of one form, whose bytes are fed to it as they come.
///
/// ```
/// use spendguard::protocol::multipart::{FormEvent, FormReader};
/// let mut reader = FormReader::new("b");
/// let mut content = Vec::new();
/// for bytes in ["--b\r\nContent-Disposition: form-data; name=n\r\n\r\nco", "ntent\r\n-", "-b--"] {
///     reader.feed(bytes.as_bytes(), |event| {
///         if let FormEvent::Data(data) = event {
///             content.extend_from_slice(data);
///         }
///     })?;
/// }
/// reader.finish()?;
/// assert_eq!(content, b"content");
/// # Ok::<(), spendguard::protocol::multipart::FormError>(())
/// ```
#[derive(Debug)]
pub struct FormReader {
    /// Two dashes and the boundary.
    dashed: Vec<u8>,
    finder: memmem::Finder<'static>,
    place: Place,
    /// The bytes at this place that are not yet understood, 4 KiB at the most.
    held: Vec<u8>,
    parts: usize,
}

impl FormReader {
    /// A reader of a form with this boundary.
    pub fn new(boundary: &str) -> Self {
        let dashed = format!("--{boundary}").into_bytes();
        let finder = memmem::Finder::new(&dashed).into_owned();
        Self { dashed, finder, place: Place::Start, held: Vec::new(), parts: 0 }
    }

    /// Takes the next bytes; calls `on` with each event in them.
    ///
    /// An error is final: what is fed later is refused for the same reason.
    pub fn feed(&mut self, mut bytes: &[u8], mut on: impl FnMut(FormEvent<'_>)) -> Result<(), FormError> {
        while !bytes.is_empty() {
            let read = match self.place {
                Place::Start => self.start(bytes),
                Place::BehindBoundary => self.behind_boundary(bytes, &mut on),
                Place::Head => self.head(bytes, &mut on),
                Place::Content => self.content(bytes, &mut on),
                Place::End => self.end(bytes),
                Place::Refused(error) => Err(error),
            };
            bytes = &bytes[read.inspect_err(|error| self.place = Place::Refused(*error))?..];
        }
        Ok(())
    }

    /// Ends the body; an error unless the form has ended too.
    pub fn finish(&self) -> Result<(), FormError> {
        match self.place {
            Place::Start => Err(FormError::Start),
            Place::BehindBoundary => Err(self.no_part()),
            Place::End if matches!(*self.held, [] | [_, _]) => Ok(()),
            Place::Head | Place::Content | Place::End => Err(FormError::End),
            Place::Refused(error) => Err(error),
        }
    }

    /// Reads the first boundary; returns how many bytes it took.
    fn start(&mut self, bytes: &[u8]) -> Result<usize, FormError> {
        let taken = self.hold(bytes, self.dashed.len());
        if !self.dashed.starts_with(&self.held) {
            return Err(FormError::Start);
        }
        if self.held.len() == self.dashed.len() {
            self.go(Place::BehindBoundary);
        }
        Ok(taken)
    }

    /// Reads what is behind a boundary: the end of the form, or of the boundary's line.
    fn behind_boundary(
        &mut self,
        bytes: &[u8],
        on: &mut impl FnMut(FormEvent<'_>),
    ) -> Result<usize, FormError> {
        let taken = self.hold(bytes, 2);
        match *self.held {
            [_] => {}
            [b'-', b'-'] => {
                self.go(Place::End);
                on(FormEvent::End);
            }
            [b'\r', b'\n'] if self.parts < PARTS_MAX => {
                self.go(Place::Head);
                self.parts += 1;
            }
            _ => return Err(self.no_part()),
        }
        Ok(taken)
    }

    /// Reads the head of a part.
    fn head(&mut self, bytes: &[u8], on: &mut impl FnMut(FormEvent<'_>)) -> Result<usize, FormError> {
        let before = self.held.len();
        let taken = self.hold(bytes, HEAD_BYTES_MAX + BLANK_LINE.len());
        let from = before.saturating_sub(BLANK_LINE.len() - 1);
        let end = memmem::find(&self.held[from..], BLANK_LINE).map(|at| from + at);
        let head = &self.held[..end.unwrap_or(self.held.len())];
        let from = before.saturating_sub(self.dashed.len() - 1).min(head.len());
        if let Some(at) = self.finder.find(&head[from..]) {
            let is_line = head[..from + at].ends_with(b"\r\n");
            return Err(if is_line { FormError::Head } else { FormError::InsidePart });
        }
        let Some(end) = end else {
            let has_room = self.held.len() < HEAD_BYTES_MAX + BLANK_LINE.len();
            return if has_room { Ok(taken) } else { Err(FormError::Head) };
        };
        let text = std::str::from_utf8(head).map_err(|_| FormError::Head)?;
        let (name, file_name) = named(text)?;
        on(FormEvent::Part { name, file_name });
        self.go(Place::Content);
        Ok(end + BLANK_LINE.len() - before)
    }

    /// Reads content up to the next boundary.
    ///
    /// Held are the last bytes of the content so far, one less than a line end and a
    /// boundary have; or all of it, where it is shorter.
    fn content(&mut self, bytes: &[u8], on: &mut impl FnMut(FormEvent<'_>)) -> Result<usize, FormError> {
        let held_max = self.dashed.len() + 1;
        let held = self.held.len();
        self.held.extend_from_slice(&bytes[..bytes.len().min(held_max)]);
        let straddling = self.finder.find(&self.held);
        let found = straddling.or_else(|| self.finder.find(bytes).map(|at| held + at));
        // Counted from the first byte that is held.
        let Some(end) = found else {
            let passed = (held + bytes.len()).saturating_sub(held_max);
            self.pass(held, bytes, passed, on);
            self.held.truncate(held);
            self.held.drain(..passed.min(held));
            self.held.extend_from_slice(&bytes[passed.saturating_sub(held)..]);
            return Ok(bytes.len());
        };
        let before = if end <= self.held.len() { &self.held[..end] } else { &bytes[..end - held] };
        if !before.ends_with(b"\r\n") {
            // Without content, the line end would be that of the head's blank line.
            return Err(if end == 0 { FormError::Head } else { FormError::InsidePart });
        }
        self.pass(held, bytes, end - 2, on);
        self.go(Place::BehindBoundary);
        Ok(end + self.dashed.len() - held)
    }

    /// Passes on the first `count` bytes of those that were held before, and of these.
    fn pass(&self, held: usize, bytes: &[u8], count: usize, on: &mut impl FnMut(FormEvent<'_>)) {
        for data in [&self.held[..count.min(held)], &bytes[..count.saturating_sub(held)]] {
            if !data.is_empty() {
                on(FormEvent::Data(data));
            }
        }
    }

    /// Reads what is behind the last boundary: a line end, or nothing.
    fn end(&mut self, bytes: &[u8]) -> Result<usize, FormError> {
        let taken = self.hold(bytes, 3);
        if b"\r\n".starts_with(&self.held) { Ok(taken) } else { Err(FormError::End) }
    }

    /// Holds as many bytes as fit; returns how many.
    fn hold(&mut self, bytes: &[u8], held_max: usize) -> usize {
        let taken = bytes.len().min(held_max - self.held.len());
        self.held.extend_from_slice(&bytes[..taken]);
        taken
    }

    /// Goes on at another place, where nothing is held.
    fn go(&mut self, place: Place) {
        self.place = place;
        self.held.clear();
    }

    /// Why no part begins behind a boundary.
    const fn no_part(&self) -> FormError {
        if self.parts == PARTS_MAX { FormError::TooManyParts } else { FormError::InsidePart }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::multipart::parts;

    /// Names and content of the parts, where the body comes in these pieces; each byte of
    /// content is lent once.
    type Parts = Vec<(String, Option<String>, Vec<u8>)>;

    fn streamed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, boundary: &str) -> Result<Parts, FormError> {
        let mut reader = FormReader::new(boundary);
        let (mut found, mut ends) = (Parts::new(), 0);
        for piece in pieces {
            reader.feed(piece, |event| match event {
                FormEvent::Part { name, file_name } => {
                    found.push((name.to_owned(), file_name.map(str::to_owned), Vec::new()));
                }
                FormEvent::Data(data) => {
                    assert!(!data.is_empty());
                    found.last_mut().expect("a part").2.extend_from_slice(data);
                }
                FormEvent::End => ends += 1,
            })?;
            assert!(reader.held.len() <= HEAD_BYTES_MAX + BLANK_LINE.len());
        }
        reader.finish()?;
        assert_eq!(ends, 1);
        Ok(found)
    }

    fn whole(body: &[u8], boundary: &str) -> Result<Parts, FormError> {
        let owned = |part: &super::super::Part<'_>| {
            (part.name.to_owned(), part.file_name.map(str::to_owned), part.data.to_vec())
        };
        Ok(parts(body, boundary)?.iter().map(owned).collect())
    }

    /// The body in pieces that end at these places.
    fn cut<'a>(body: &'a [u8], places: &[prop::sample::Index]) -> Vec<&'a [u8]> {
        let mut ends: Vec<_> = places.iter().map(|place| place.index(body.len() + 1)).collect();
        ends.push(body.len());
        ends.sort_unstable();
        let starts = std::iter::once(0).chain(ends.iter().copied());
        starts.zip(&ends).map(|(start, end)| &body[start..*end]).collect()
    }

    /// Checks that the body is read alike in whole and in pieces.
    ///
    /// A head is judged as soon as it is read. In a whole form, the end of the part is
    /// looked for first.
    fn assert_alike(body: &[u8], pieces: Vec<&[u8]>) {
        let (streamed, whole) = (streamed(pieces, "bb"), whole(body, "bb"));
        let is_earlier = matches!(streamed, Err(FormError::Head | FormError::Nested))
            && matches!(whole, Err(FormError::InsidePart | FormError::End));
        assert!(streamed == whole || is_earlier, "{streamed:?} and {whole:?}: {}", body.escape_ascii());
    }

    const HEAD: &str = "Content-Disposition: form-data; name=\"n\"";

    #[test]
    fn a_form_is_refused_in_pieces_as_it_is_in_whole() {
        let long = format!("--bb\r\n{HEAD}\r\nX: {}", "z".repeat(HEAD_BYTES_MAX));
        let longest = format!("--bb\r\n{HEAD}\r\nX: {}", "z".repeat(HEAD_BYTES_MAX - HEAD.len() - 5));
        let part = format!("--bb\r\n{HEAD}\r\n\r\n\r\n");
        for (body, expected) in [
            (String::new(), Err(FormError::Start)),
            ("--b".to_owned(), Err(FormError::Start)),
            ("\r\n--bb--".to_owned(), Err(FormError::Start)),
            ("--bb".to_owned(), Err(FormError::InsidePart)),
            ("--bb-\r".to_owned(), Err(FormError::InsidePart)),
            ("--bb--".to_owned(), Ok(0)),
            ("--bb--\r\n".to_owned(), Ok(0)),
            ("--bb--\r".to_owned(), Err(FormError::End)),
            ("--bb--\r\nmore".to_owned(), Err(FormError::End)),
            (format!("{part}--bb--"), Ok(1)),
            (format!("--bb\r\n{HEAD}\r\n\r\nx"), Err(FormError::End)),
            (format!("--bb\r\n{HEAD}\r\n\r\n--bb--"), Err(FormError::Head)),
            (format!("--bb\r\n{HEAD}\r\n\r\n\n--bb--"), Err(FormError::InsidePart)),
            (format!("--bb\r\n{HEAD}\r\n\r\nx\n--bb--"), Err(FormError::InsidePart)),
            (format!("--bb\r\n{HEAD}\r\n\r\nx\r\n--bbb"), Err(FormError::InsidePart)),
            (format!("--bb\r\n{HEAD}\r\n--bb--"), Err(FormError::Head)),
            ("--bb\r\n--bb--".to_owned(), Err(FormError::InsidePart)),
            (format!("--bb\r\n{HEAD}; filename=\"--bb\"\r\n\r\nx\r\n--bb--"), Err(FormError::InsidePart)),
            (
                format!("--bb\r\n{HEAD}\r\nContent-Transfer-Encoding: a\r\n\r\nx\r\n--bb--"),
                Err(FormError::Nested),
            ),
            ("--bb\r\n\u{e4}: a\r\n\r\nx\r\n--bb--".to_owned(), Err(FormError::Head)),
            (format!("{long}\r\n\r\nx\r\n--bb--"), Err(FormError::Head)),
            (format!("{longest}\r\n\r\nx\r\n--bb--"), Ok(1)),
            (format!("{longest}z\r\n\r\nx\r\n--bb--"), Err(FormError::Head)),
            (format!("{}--bb--", part.repeat(PARTS_MAX)), Ok(PARTS_MAX)),
            (format!("{}--bb--", part.repeat(PARTS_MAX + 1)), Err(FormError::TooManyParts)),
        ] {
            for size in [1, 2, 3, 7, usize::MAX] {
                let found = streamed(body.as_bytes().chunks(size), "bb").map(|found| found.len());
                assert_eq!(found, expected, "{body:?} in pieces of {size}");
                assert_alike(body.as_bytes(), body.as_bytes().chunks(size).collect());
            }
        }
    }

    #[test]
    fn an_error_is_final() {
        let mut reader = FormReader::new("b");
        let nested = b"--b\r\nContent-Transfer-Encoding: a\r\n\r\n";
        assert_eq!(reader.feed(nested, |_| {}), Err(FormError::Nested));
        assert_eq!(reader.feed(b"x", |_| {}), Err(FormError::Nested));
        assert_eq!(reader.finish(), Err(FormError::Nested));
    }

    #[test]
    fn content_is_lent_from_the_bytes_that_are_fed_but_for_a_few() {
        let mut reader = FormReader::new("bb");
        reader.feed(format!("--bb\r\n{HEAD}\r\n\r\n").as_bytes(), |_| {}).unwrap();
        let piece = vec![b'-'; 1 << 16];
        for _ in 0..3 {
            let (mut lent, mut copied) = (0, 0);
            reader
                .feed(&piece, |event| {
                    let FormEvent::Data(data) = event else { panic!("{event:?}") };
                    let is_lent = piece.as_ptr_range().contains(&data.as_ptr());
                    *(if is_lent { &mut lent } else { &mut copied }) += data.len();
                })
                .unwrap();
            assert!(copied <= 5 && lent >= piece.len() - 5, "{copied} {lent}");
        }
    }

    proptest! {
        #[test]
        fn a_form_is_read_alike_however_it_is_cut(
            tokens in prop::collection::vec(prop::sample::select(vec![
                "--bb", "--bb\r\n", "--", "-", "\r\n--bb\r\n", "\r\n--bb--", "\r\n", "\r", "\n", "b", "data", "\r\n\r\n",
                "Content-Disposition: form-data; name=n\r\n\r\n",
                "--bb\r\nContent-Disposition: form-data; name=m; filename=f\r\nContent-Type: a/b\r\n\r\nx\r\n",
            ]), 0..12),
            places in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
            opened in any::<bool>(), closed in any::<bool>(),
        ) {
            let opening = "--bb\r\nContent-Disposition: form-data; name=n\r\n\r\n";
            let body = [if opened { opening } else { "" }, &tokens.concat(), if closed { "\r\n--bb--" } else { "" }].concat();
            assert_alike(body.as_bytes(), cut(body.as_bytes(), &places));
        }
    }
}

//! Documents as programs write them, and hostile ones.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use proptest::prelude::*;

use super::*;
use crate::media::spelling::Spelling;

fn deflated(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn stream(dict: &str, data: &[u8]) -> Vec<u8> {
    [format!("<< {dict} /Length {} >>\nstream\n", data.len()).as_bytes(), data, b"\nendstream"].concat()
}

fn packed(dict: &str, data: &[u8]) -> Vec<u8> {
    stream(&format!("{dict} /Filter /FlateDecode"), &deflated(data))
}

fn a_pdf(objects: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = b"%PDF-1.7\n".to_vec();
    for (number, body) in objects {
        bytes.extend(format!("{number} 0 obj\n").bytes());
        bytes.extend(body);
        bytes.extend(b"\nendobj\n");
    }
    bytes.extend(b"trailer << /Root 1 0 R >>\n%%EOF");
    bytes
}

fn text(body: &str) -> Vec<u8> {
    body.as_bytes().to_vec()
}

/// A document of one page with some contents; resources lead to object 9.
fn one_page(contents: Vec<u8>, more: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let page = "<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << /XObject << /F 9 0 R >> >> >>";
    let mut objects = vec![
        (1, text("<< /Type /Catalog /Pages 2 0 R >>")),
        (2, text("<< /Type /Pages /Kids [3 0 R] /Count 1 >>")),
        (3, text(page)),
        (4, contents),
    ];
    objects.extend_from_slice(more);
    a_pdf(&objects)
}

fn of(bytes: &[u8]) -> Result<(u32, u64), PdfProblem> {
    pdf(&Spelling::plain().token(bytes)).map(|facts| (facts.pages, facts.text_bytes_max))
}

#[test]
fn a_page_holds_the_text_of_its_strings() {
    let shown = b"BT /F1 12 Tf (Hello \\(there\\)) Tj [(a) -20 (b)] TJ <414243> Tj ET";
    // 15 + 1 bytes and two of them as they stand, 3 written in digits.
    for contents in [stream("", shown), packed("", shown)] {
        let (pages, bytes) = of(&one_page(contents, &[])).unwrap();
        assert_eq!(pages, 1);
        assert!((19..120).contains(&bytes), "{bytes}");
    }
    let base85 = stream("/Filter [/ASCII85Decode /FlateDecode]", &base85(&deflated(shown)));
    assert_eq!(of(&one_page(base85, &[])), of(&one_page(packed("", shown), &[])));
}

fn base85(data: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for chunk in data.chunks(4) {
        let mut padded = [0; 4];
        padded[..chunk.len()].copy_from_slice(chunk);
        let mut value = u32::from_be_bytes(padded);
        let mut group = [0; 5];
        for digit in group.iter_mut().rev() {
            *digit = b'!' + u8::try_from(value % 85).unwrap();
            value /= 85;
        }
        text.extend(&group[..=chunk.len()]);
    }
    text.extend(b"~>");
    text
}

#[test]
fn a_form_counts_as_often_as_it_is_drawn() {
    let form = |contents: &[u8], resources: &str| packed(&format!("/Subtype /Form {resources}"), contents);
    let letters = [b"(", &[b'x'; 1_000][..], b") Tj"].concat();
    let nested = "/Resources << /XObject << /G 10 0 R >> >>";
    let document = one_page(
        packed("", b"/F Do /F Do /F Do"),
        &[(9, form(b"/G Do /G Do", nested)), (10, form(&letters, ""))],
    );
    let (_, bytes) = of(&document).unwrap();
    assert!((6_000..30_000).contains(&bytes), "{bytes}");
    let image = one_page(packed("", b"/F Do"), &[(9, stream("/Subtype /Image", &letters))]);
    assert_eq!(of(&image), Ok((1, 0)));
    let itself = one_page(
        packed("", b"/F Do"),
        &[(9, form(b"/F Do (x) Tj", "/Resources << /XObject << /F 9 0 R >> >>"))],
    );
    assert_eq!(of(&itself), Err(PdfProblem::Unsupported));
}

#[test]
fn forms_within_forms_multiply_without_taking_time() {
    let mut more = Vec::new();
    for number in 9..30 {
        let resources = format!("/Subtype /Form /Resources << /XObject << /F {} 0 R >> >>", number + 1);
        more.push((number, packed(&resources, &b"/F Do ".repeat(10))));
    }
    more.push((30, packed("/Subtype /Form", b"(laugh) Tj")));
    let (_, bytes) = of(&one_page(packed("", b"/F Do"), &more)).unwrap();
    assert!(bytes > 10_u64.pow(18), "{bytes}");
}

#[test]
fn pages_that_are_listed_again_count_again() {
    let kids = "3 0 R ".repeat(10_000);
    let shown = packed("", b"(0123456789) Tj");
    let objects = [
        (1, text("<< /Pages 2 0 R >>")),
        (2, text(&format!("<< /Type /Pages /Kids [{kids}] /Count 1 >>"))),
        (3, text("<< /Type /Page /Contents 4 0 R >>")),
        (4, shown),
    ];
    let (pages, bytes) = of(&a_pdf(&objects)).unwrap();
    assert!(pages == 10_000 && bytes >= 100_000, "{pages} {bytes}");
    let endless = [(1, text("<< /Pages 2 0 R >>")), (2, text("<< /Kids [2 0 R] >>"))];
    assert_eq!(of(&a_pdf(&endless)), Err(PdfProblem::Unsupported));
    let many = "2 0 R ".repeat(1_000);
    let tree = [
        (1, text("<< /Pages 5 0 R >>")),
        (5, text(&format!("<< /Kids [{many}] >>"))),
        (2, text(&format!("<< /Kids [{} ] >>", "3 0 R ".repeat(1_000)))),
        (3, text("<< /Type /Page >>")),
    ];
    assert_eq!(of(&a_pdf(&tree)), Err(PdfProblem::TooLarge), "a million pages");
}

#[test]
fn all_versions_of_an_object_count_wherever_they_stand() {
    let long = [b"(", &[b'x'; 500][..], b") Tj"].concat();
    let in_stream = stream("", &[b"(", &b"3 0 obj << /Type /Page /Contents 5 0 R >> "[..], b") Tj"].concat());
    for more in [
        vec![(4, packed("", &long))],
        // A page within the data of another stream, where a table could point.
        vec![(5, packed("", &long)), (6, in_stream)],
        // A page within an object stream.
        vec![
            (5, packed("", &long)),
            (7, packed("/Type /ObjStm /N 1 /First 4", b"3 0 << /Type /Page /Contents 5 0 R >>")),
        ],
    ] {
        let (pages, bytes) = of(&one_page(packed("", b"(short) Tj"), &more)).unwrap();
        assert!(pages == 1 && bytes >= 500, "{pages} {bytes}");
    }
}

#[test]
fn a_character_may_stand_for_a_long_text() {
    let shown = packed("", b"(0123456789) Tj");
    let plain = of(&one_page(shown.clone(), &[])).unwrap().1;
    let long = "0041".repeat(100);
    let map = format!("1 beginbfchar <01> <{long}> endbfchar");
    let mapped = [(8, text("<< /ToUnicode 7 0 R >>")), (7, packed("", map.as_bytes()))];
    let bytes = of(&one_page(shown.clone(), &mapped)).unwrap().1;
    assert!(bytes >= 10 * 100 && bytes > plain, "{bytes}");
    let named = [(8, text("<< /Differences [1 /uni00410041004100410041 /f_f_i] >>"))];
    assert!(of(&one_page(shown.clone(), &named)).unwrap().1 >= 10 * 15);
    let replaced = packed("", b"/Span /P BDC (x) Tj EMC");
    let text_of = [(8, text(&format!("<< /ActualText ({}) >>", "y".repeat(900))))];
    assert!(of(&one_page(replaced, &text_of)).unwrap().1 >= 900);
    let image = packed("", b"BI /W 1 ID (((( EI (0123456789) Tj EI");
    assert!(of(&one_page(image, &[])).unwrap().1 >= 10, "an image within the contents hides nothing");
}

#[test]
fn annotations_have_text_too() {
    let page = "<< /Type /Page /Annots [5 0 R] >>";
    let objects = [
        (1, text("<< /Pages 2 0 R >>")),
        (2, text("<< /Kids [3 0 R] >>")),
        (3, text(page)),
        (5, text("<< /Contents (a note) /AP << /N << /On 6 0 R /Off 6 0 R >> >> >>")),
        (6, packed("/Subtype /Form /BBox [0 0 1 1]", b"(0123456789) Tj")),
    ];
    let (_, bytes) = of(&a_pdf(&objects)).unwrap();
    assert!(bytes >= 6 + 20, "{bytes}");
}

#[test]
fn what_is_not_bounded_is_a_problem() {
    let shown = || packed("", b"(x) Tj");
    let bomb = vec![b' '; 80 << 20];
    for (name, bytes, problem) in [
        ("nothing", Vec::new(), PdfProblem::NotPdf),
        ("no page", a_pdf(&[(1, text("<< /Pages 2 0 R >>"))]), PdfProblem::NotPdf),
        ("a page that unpacks too far", one_page(packed("", &bomb), &[]), PdfProblem::TooLarge),
        (
            "an object stream that unpacks too far",
            one_page(shown(), &[(7, packed("/N 1 /First 4", &bomb))]),
            PdfProblem::TooLarge,
        ),
        (
            "an encrypted one",
            one_page(shown(), &[(7, text("<< /Encr#79pt 8 0 R >>"))]),
            PdfProblem::Encrypted,
        ),
        ("damaged contents", one_page(stream("/Filter /FlateDecode", b"xyz"), &[]), PdfProblem::Broken),
        ("a string without an end", one_page(packed("", b"(x"), &[]), PdfProblem::Broken),
        ("another filter", one_page(stream("/Filter /LZWDecode", b"xyz"), &[]), PdfProblem::Unsupported),
        (
            "a predictor",
            one_page(packed("/DecodeParms << /Predictor 12 >>", b"(x)"), &[]),
            PdfProblem::Unsupported,
        ),
        (
            "text in a pattern",
            one_page(shown(), &[(7, packed("/PatternType 1", b"(x) Tj"))]),
            PdfProblem::Unsupported,
        ),
        (
            "text in a glyph",
            one_page(shown(), &[(7, text("<< /CharProcs << /a 8 0 R >> >>")), (8, packed("", b"(x) Tj"))]),
            PdfProblem::Unsupported,
        ),
        (
            "text in a mask",
            one_page(shown(), &[(7, text("<< /S /Alpha /G 8 0 R >>")), (8, packed("", b"(x) Tj"))]),
            PdfProblem::Unsupported,
        ),
        (
            "an object with a hidden number",
            [&one_page(shown(), &[])[..], b"\n3 0%\nobj << /Type /Page >>"].concat(),
            PdfProblem::Unsupported,
        ),
        (
            "an object of endless versions",
            one_page(shown(), &vec![(7, text("1")); 200]),
            PdfProblem::TooLarge,
        ),
        ("deep nesting", one_page(shown(), &[(7, text(&"[".repeat(10_000)))]), PdfProblem::Broken),
    ] {
        assert_eq!(of(&bytes), Err(problem), "{name}");
    }
    let large = [&one_page(shown(), &[])[..], &vec![b' '; FILE_BYTES_MAX]].concat();
    assert_eq!(of(&large), Err(PdfProblem::TooLarge));
}

proptest! {
    #[test]
    fn a_document_survives_any_spelling_and_damage_breaks_nothing(
        spelling in Spelling::any(), changes in prop::collection::vec((0_usize..2_000, any::<u8>()), 0..8), cut in 0_usize..2_000,
    ) {
        let form = packed("/Subtype /Form /Resources << /XObject << /G 9 0 R >> >>", b"(form) Tj");
        let mut bytes = one_page(stream("", b"(shown) Tj /F Do BI ID x EI"), &[(9, form)]);
        prop_assert_eq!(pdf(&spelling.token(&bytes)), pdf(&Spelling::plain().token(&bytes)));
        prop_assert!(pdf(&spelling.token(&bytes)).is_ok());
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(cut.max(20));
        let _ = pdf(&spelling.token(&bytes));
    }
}

//! The page that lists a directory without an index file.

use std::fmt::Write;

/// The page ends when it is longer than this, in bytes.
const LONGEST_PAGE: usize = 256 << 10;

/// Returns a page with links to the entries: names, and whether each is a directory. Names may
/// contain any byte.
pub(crate) fn page(path: &[u8], entries: &[(Vec<u8>, bool)]) -> String {
    let mut page = String::from("<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\"><title>/");
    push_text(&mut page, path);
    page.push_str("</title></head>\n<body><h1>/");
    push_text(&mut page, path);
    page.push_str("</h1>\n<ul>\n");
    if !path.is_empty() {
        page.push_str("<li><a href=\"../\">../</a></li>\n");
    }
    for (name, is_directory) in entries {
        if page.len() > LONGEST_PAGE {
            page.push_str("<li>…</li>\n");
            break;
        }
        let slash = if *is_directory { "/" } else { "" };
        page.push_str("<li><a href=\"");
        push_encoded(&mut page, name);
        let _ = write!(page, "{slash}\">");
        push_text(&mut page, name);
        let _ = writeln!(page, "{slash}</a></li>");
    }
    page.push_str("</ul></body></html>\n");
    page
}

/// Appends the text of a name so that it cannot be markup.
fn push_text(page: &mut String, name: &[u8]) {
    for character in String::from_utf8_lossy(name).chars() {
        match character {
            '&' => page.push_str("&amp;"),
            '<' => page.push_str("&lt;"),
            '>' => page.push_str("&gt;"),
            '"' => page.push_str("&quot;"),
            '\'' => page.push_str("&#39;"),
            character if character.is_control() => page.push('\u{fffd}'),
            character => page.push(character),
        }
    }
}

/// Appends a path as part of a URI. A colon is encoded too, so that no name is a scheme.
pub(crate) fn push_encoded(page: &mut String, path: &[u8]) {
    for &byte in path {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            page.push(char::from(byte));
        } else {
            let _ = write!(page, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::page;

    #[test]
    fn a_name_is_neither_markup_nor_a_scheme() {
        let names = [(b"<b>&\"'\xff".to_vec(), false), (b"javascript:x".to_vec(), true)];
        let page = page(b"<i>", &names);
        assert!(page.contains("<a href=\"%3Cb%3E%26%22%27%FF\">&lt;b&gt;&amp;&quot;&#39;\u{fffd}</a>"));
        assert!(page.contains("<a href=\"javascript%3Ax/\">javascript:x/</a>"));
        assert!(!page.contains("<i>") && !page.contains("<b>"));
    }

    #[test]
    fn a_page_has_a_maximum_length() {
        let names: Vec<_> = (0..50_000).map(|n| (format!("{n}").into_bytes(), false)).collect();
        assert!(page(b"", &names).len() < super::LONGEST_PAGE + 1000);
    }
}

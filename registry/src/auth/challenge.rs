//! The `WWW-Authenticate` header: what kind of credentials a registry asks for.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// A challenge this crate can answer (RFC 9110 11.6.1; distribution token specification).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password on every request.
    Basic,
    /// A token from `realm`, for `service`.
    Bearer {
        /// The URL of the token endpoint.
        realm: String,
        /// The name the registry has there.
        service: Option<String>,
    },
}

impl Challenge {
    /// The best challenge among all headers: bearer before basic.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut best = None;
        for value in headers.get_all(WWW_AUTHENTICATE) {
            let Ok(text) = value.to_str() else { continue };
            for challenge in parse(text) {
                if matches!(challenge, Self::Bearer { .. }) {
                    return Some(challenge);
                }
                best = Some(challenge);
            }
        }
        best
    }
}

/// Whether a refusal says that the token is good, but not for this (RFC 6750 3.1).
pub(crate) fn is_insufficient(headers: &HeaderMap) -> bool {
    let values = headers.get_all(WWW_AUTHENTICATE).iter();
    let mut texts = values.filter_map(|value| value.to_str().ok());
    texts.any(|text| {
        split_outside_quotes(text).into_iter().any(|item| {
            let (_, parameter) = scheme_and_rest(item.trim());
            parameter.split_once('=').is_some_and(|(key, value)| {
                key.trim().eq_ignore_ascii_case("error")
                    && unquote(value.trim()) == "insufficient_scope"
            })
        })
    })
}

/// Parses one header value, which may hold several challenges; unknown schemes are skipped.
fn parse(text: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    for item in split_outside_quotes(text) {
        let (scheme, parameter) = scheme_and_rest(item.trim());
        if let Some(scheme) = scheme {
            found.push((scheme.to_ascii_lowercase(), Vec::new()));
        }
        if let (Some((_, parameters)), Some((key, value))) =
            (found.last_mut(), parameter.split_once('='))
        {
            parameters.push((key.trim().to_ascii_lowercase(), unquote(value.trim())));
        }
    }
    found
        .into_iter()
        .filter_map(|(scheme, parameters)| build(&scheme, parameters))
        .collect()
}

fn build(scheme: &str, parameters: Vec<(String, String)>) -> Option<Challenge> {
    if scheme == "basic" {
        return Some(Challenge::Basic);
    }
    if scheme != "bearer" {
        return None;
    }
    let (mut realm, mut service) = (None, None);
    for (key, value) in parameters {
        match key.as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            _ => {}
        }
    }
    realm.map(|realm| Challenge::Bearer { realm, service })
}

/// Splits at commas that are not within a quoted string.
fn split_outside_quotes(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// `Bearer realm="x"` has a scheme and a parameter; `service="y"` only a parameter.
fn scheme_and_rest(item: &str) -> (Option<&str>, &str) {
    match item.split_once(' ') {
        Some((word, rest)) if !word.contains('=') && !word.contains('"') => {
            let rest = rest.trim_start();
            // `realm = "x"` with blanks around the sign is a parameter still.
            if rest.starts_with('=') {
                (None, item)
            } else {
                (Some(word), rest)
            }
        }
        None if !item.is_empty() && !item.contains('=') => (Some(item), ""),
        _ => (None, item),
    }
}

fn unquote(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"') else {
        return value.to_owned();
    };
    let inner = inner.strip_suffix('"').unwrap_or(inner);
    let (mut out, mut escaped) = (String::with_capacity(inner.len()), false);
    for letter in inner.chars() {
        if letter == '\\' && !escaped {
            escaped = true;
        } else {
            out.push(letter);
            escaped = false;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
        }
    }

    #[test]
    fn real_headers_parse() {
        let hub = r#"Bearer realm="https://auth.invalid/token",service="registry.invalid",scope="repository:a/b:pull,push""#;
        assert_eq!(
            parse(hub),
            [bearer(
                "https://auth.invalid/token",
                Some("registry.invalid")
            )]
        );
        assert_eq!(
            parse(r#"Basic realm="Registry, \"quoted\"""#),
            [Challenge::Basic]
        );
        assert_eq!(parse("basic"), [Challenge::Basic]);
        let two = r#"Basic realm="x", Bearer realm="https://t.invalid" , service=s"#;
        assert_eq!(
            parse(two),
            [Challenge::Basic, bearer("https://t.invalid", Some("s"))]
        );
        assert_eq!(parse("Bearer service=\"s\""), []);
        assert_eq!(parse("Negotiate, NTLM"), []);
        assert_eq!(
            parse(r#"BEARER realm = "https://t.invalid""#),
            [bearer("https://t.invalid", None)]
        );
    }

    #[test]
    fn bearer_is_preferred_over_basic() {
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, "Basic realm=\"x\"".parse().unwrap());
        headers.append(
            WWW_AUTHENTICATE,
            "Bearer realm=\"https://t.invalid\"".parse().unwrap(),
        );
        assert_eq!(
            Challenge::from_headers(&headers),
            Some(bearer("https://t.invalid", None))
        );
    }

    proptest! {
        #[test]
        fn any_header_is_answered_without_panic(text in "[ -~é]{0,120}") {
            let _ = parse(&text);
        }

        #[test]
        fn quoted_values_survive(realm in "[ -~]{0,40}", service in "[ -~]{0,40}") {
            let quote = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
            let header = format!("Bearer realm=\"{}\",service=\"{}\"", quote(&realm), quote(&service));
            prop_assert_eq!(parse(&header), [bearer(&realm, Some(&service))]);
        }
    }

    #[test]
    fn a_token_that_does_not_reach_is_told_from_a_bad_one() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(WWW_AUTHENTICATE, text.parse().unwrap());
            is_insufficient(&headers)
        };
        assert!(of(
            r#"Bearer realm="https://r.invalid/token",scope="repository:a:pull,push",error="insufficient_scope""#
        ));
        assert!(of(r#"Bearer error=insufficient_scope, realm="x""#));
        assert!(!of(r#"Bearer realm="x",error="invalid_token""#));
        assert!(!of(r#"Bearer realm="x",scope="error=insufficient_scope""#));
    }
}

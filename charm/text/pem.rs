//! Certificates as text.

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";
/// Letters in a line, by RFC 7468.
const WIDTH: usize = 64;

/// The first certificate of a text, printed anew: what stands before, behind or between its lines is left
/// behind, a second certificate included. Whether it is a certificate is for `pki` to say.
#[must_use]
pub fn plain_certificate(text: &str) -> Option<String> {
    let (_, rest) = text.split_once(BEGIN)?;
    let (body, _) = rest.split_once(END)?;
    let letters: Vec<char> = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let sound = |c: &char| c.is_ascii_alphanumeric() || "+/=".contains(*c);
    if letters.is_empty() || !letters.iter().all(sound) {
        return None;
    }
    let mut pem = format!("{BEGIN}\n");
    for line in letters.chunks(WIDTH) {
        pem.extend(line);
        pem.push('\n');
    }
    Some(pem + END + "\n")
}

#[cfg(test)]
mod tests {
    use etcd_charm::pki;

    use super::*;

    #[test]
    fn a_certificate_is_printed_as_it_was_made_and_without_its_surroundings() {
        let one = pki::make_authority("one", 1_800_000_000).unwrap().certificate;
        let two = pki::make_authority("two", 1_800_000_000).unwrap().certificate;
        assert_eq!(plain_certificate(&one).as_ref(), Some(&one));
        let crowded = format!("$(id)\n{}\n{two}# x", one.replace('\n', "\r\n"));
        assert_eq!(plain_certificate(&crowded).as_ref(), Some(&one));
        for bad in ["", "x", BEGIN, &format!("{BEGIN}\n{END}"), &format!("{BEGIN}\n$(id)\n{END}")] {
            assert_eq!(plain_certificate(bad), None, "{bad:?}");
        }
    }
}

//! What `cargo test` does in place of a fuzzer: it runs the committed corpus, and then mutations of
//! it, the same in every run.

use crate::random::Random;

/// Pieces that mean something to one of the readers.
const TOKENS: [&[u8]; 40] = [
    b"@",
    b".",
    b"..",
    b"/",
    b"../",
    b"//",
    b"\"",
    b"\"\"",
    b"'",
    b"=",
    b",",
    b"\n",
    b"\r\n",
    b"\r",
    b"\t",
    b"\0",
    b"\\",
    b"\\u0000",
    b"{",
    b"}",
    b"[",
    b":",
    b"null",
    b"email",
    b"\xff",
    b"\xc3",
    b"xn--",
    b"1-",
    b"-",
    b"3f",
    b".tenantry",
    b"storage/",
    b"$OUT",
    "\u{feff}".as_bytes(),
    "\u{202e}".as_bytes(),
    "\u{301}".as_bytes(),
    "\u{130}".as_bytes(),
    "\u{ff20}".as_bytes(),
    "\u{212a}".as_bytes(),
    "\u{fdfa}".as_bytes(),
];
/// No mutation is longer: what is long is slow, and of no other kind.
const OCTETS_MAX: usize = 8 << 10;

/// Runs what is to be tested on each input of a corpus and then on mutations of them, `count` in
/// all. Returns how many of them were accepted, and makes sure that neither these nor the others
/// are few.
pub fn replay(corpus: &str, count: u64, run: impl Fn(&[u8]) -> bool) -> u64 {
    let seeds: Vec<Vec<u8>> =
        crate::corpus::read(corpus).into_iter().map(|input| input.octets).collect();
    assert!(!seeds.is_empty() && seeds.len() as u64 <= count, "{} seeds of {corpus}", seeds.len());
    let mut accepted = 0;
    for number in 0..count {
        let seed = usize::try_from(number).unwrap();
        let input = seeds.get(seed).cloned().unwrap_or_else(|| mutation(&seeds, number));
        let _told = Case { corpus, number, input: &input };
        accepted += u64::from(run(&input));
    }
    assert!(
        (count / 200..count - count / 200).contains(&accepted),
        "{accepted} of {count} were accepted: {corpus}"
    );
    accepted
}

/// Tells which case it was if it fails.
struct Case<'c> {
    corpus: &'c str,
    number: u64,
    input: &'c [u8],
}

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("case {} of {}: \"{}\"", self.number, self.corpus, self.input.escape_ascii());
        }
    }
}

/// A seed with one to five changes, as its number has them.
fn mutation(seeds: &[Vec<u8>], number: u64) -> Vec<u8> {
    let mut random = Random::new(number);
    let mut octets = random.one_of(seeds).clone();
    for _ in 0..=random.at(5) {
        let at = random.at(octets.len() + 1);
        let end = (at + 1 + random.at(8)).min(octets.len());
        match random.at(9) {
            0 if at < octets.len() => octets[at] ^= 1 << random.at(8),
            1 if at < octets.len() => octets[at] = random.at(256) as u8,
            2 => octets.truncate(at),
            3 => drop(octets.drain(at..end)),
            4 => {
                let piece = octets[at..end].to_vec();
                octets.splice(at..at, piece);
            }
            5 => {
                // The beginning of this one and the end of another.
                let other = random.one_of(seeds);
                octets.truncate(at);
                octets.extend(&other[random.at(other.len() + 1)..]);
            }
            6 => {
                let piece = octets[at..end].repeat(random.at(70));
                octets.splice(at..at, piece);
            }
            _ => {
                let token = random.one_of(&TOKENS);
                octets.splice(at..at, token.iter().copied());
            }
        }
        octets.truncate(OCTETS_MAX);
    }
    octets
}

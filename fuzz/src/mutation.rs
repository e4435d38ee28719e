//! What `cargo test` does in place of a fuzzer: it runs the committed corpus, and then mutations of it, the same in every run.

use std::fs;
use std::path::Path;

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

/// Runs what is to be tested on each file of a corpus and then on mutations of them, `count` in all. Answers how many of
/// them were accepted, and makes sure that neither these nor the others are few.
pub(crate) fn replay(corpus: &str, count: u64, run: impl Fn(&[u8]) -> bool) -> u64 {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(corpus);
    let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(!seeds.is_empty() && seeds.len() as u64 <= count, "{} seeds of {corpus}", seeds.len());
    let mut accepted = 0;
    for number in 0..count {
        let seed = usize::try_from(number).unwrap();
        let input = seeds.get(seed).cloned().unwrap_or_else(|| mutation(&seeds, number));
        let _told = Case { corpus, number, input: &input };
        accepted += u64::from(run(&input));
    }
    assert!((count / 200..count - count / 200).contains(&accepted), "{accepted} of {count} were accepted: {corpus}");
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
    let mut random = Random(number);
    let mut octets = random.one_of(seeds).clone();
    for _ in 0..=random.below(5) {
        let at = random.below(octets.len() + 1);
        let end = (at + 1 + random.below(8)).min(octets.len());
        match random.below(9) {
            0 if at < octets.len() => octets[at] ^= 1 << random.below(8),
            1 if at < octets.len() => octets[at] = random.below(256) as u8,
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
                octets.extend(&other[random.below(other.len() + 1)..]);
            }
            6 => {
                let piece = octets[at..end].repeat(random.below(70));
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

/// Numbers that are the same for the same seed (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % limit as u64).unwrap()
    }

    pub(crate) fn one_of<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }
}

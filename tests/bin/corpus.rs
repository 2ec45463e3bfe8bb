//! Makes the trees that `tests/bench.sh` moves: the same bytes for the same words.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use tests::tree;

/// Mails of about 8 KiB, five hundred to a folder.
fn mails(root: &Path, count: u64) -> io::Result<()> {
    for number in 0..count {
        let folder = root.join(format!("user{:03}/Maildir/cur", number / 500));
        if number.is_multiple_of(500) {
            fs::create_dir_all(&folder)?;
        }
        let size = 1200
            + usize::from(u16::from_le_bytes([tree::bytes(number, 2)[0], tree::bytes(number, 2)[1]]))
                % 13_600;
        let mut mail =
            format!("Message-ID: <{number}@example.com>\nSubject: order {number}\n\n").into_bytes();
        mail.extend(tree::text(number + 1, size));
        fs::write(folder.join(format!("{}.M{number}P1.host:2,S", 1_700_000_000 + number)), mail)?;
    }
    Ok(())
}

/// Sites of about 3 150 files: code in many folders, pictures, and a database.
fn sites(root: &Path, count: u64) -> io::Result<()> {
    for site in 0..count {
        let root = root.join(format!("site{site:02}"));
        for number in 0..3000_u64 {
            let folder = root.join(format!("wp-content/plugins/p{:02}/src{}", number / 60, number / 20 % 3));
            if number.is_multiple_of(20) {
                fs::create_dir_all(&folder)?;
            }
            let size = 300 + usize::from(tree::bytes(number, 1)[0]) * 70;
            fs::write(folder.join(format!("class-{number}.php")), tree::text(number * 31 + 7, size))?;
        }
        let uploads = root.join("wp-content/uploads/2026/11");
        fs::create_dir_all(&uploads)?;
        for number in 0..150_u64 {
            let size = 20_000 + usize::from(tree::bytes(number, 1)[0]) * 600;
            fs::write(uploads.join(format!("photo-{number}.jpg")), tree::bytes(site * 1000 + number, size))?;
        }
        fs::write(root.join("shop.sqlite"), tree::bytes(site + 77, 6 << 20))?;
    }
    Ok(())
}

/// One file of `mib` MiB that does not compress.
fn large(root: &Path, mib: u64) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(root.join("image.raw"))?);
    for part in 0..mib {
        file.write_all(&tree::bytes(part + 1, 1 << 20))?;
    }
    file.flush()
}

/// The same file later: of a hundred pages of 16 KiB about one is another, and in its middle something was inserted.
fn changed(root: &Path, mib: u64) -> io::Result<()> {
    const PAGE: usize = 16 * 1024;
    let mut file = BufWriter::with_capacity(1 << 20, File::create(root.join("image.raw"))?);
    for part in 0..mib {
        if part == mib / 2 {
            file.write_all(&tree::bytes(part, 1000))?;
        }
        let mut bytes = tree::bytes(part + 1, 1 << 20);
        for (page, number) in bytes.chunks_exact_mut(PAGE).zip(part * 64..) {
            // Scattered over the whole file, and always the same ones.
            if number.wrapping_mul(2_654_435_761) % (1 << 32) < (1 << 32) / 100 {
                page.copy_from_slice(&tree::bytes(number + 1_000_000, PAGE));
            }
        }
        file.write_all(&bytes)?;
    }
    file.flush()
}

/// Tiny files, a hundred to a folder.
fn tiny(root: &Path, count: u64) -> io::Result<()> {
    for number in 0..count {
        let folder = root.join(format!("a{:02}/b{:02}", number / 10_000, number / 100 % 100));
        if number.is_multiple_of(100) {
            fs::create_dir_all(&folder)?;
        }
        fs::write(folder.join(format!("file-{number}")), number.to_string())?;
    }
    Ok(())
}

/// Empty files: pairs of hard links across two folders, or all in one folder.
fn names(root: &Path, count: u64, is_linked: bool) -> io::Result<()> {
    let (one, other) = (root.join("one"), root.join("other"));
    fs::create_dir_all(&one)?;
    fs::create_dir_all(&other)?;
    for number in 0..count / if is_linked { 2 } else { 1 } {
        let name = format!("name-{number:07}");
        File::create(one.join(&name))?;
        if is_linked {
            fs::hard_link(one.join(&name), other.join(&name))?;
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [kind, root, count] = words.as_slice() else {
        return usage();
    };
    let (root, Ok(count)) = (Path::new(root), count.parse()) else { return usage() };
    let made = fs::create_dir_all(root).and_then(|()| match kind.as_str() {
        "mails" => mails(root, count),
        "sites" => sites(root, count),
        "large" => large(root, count),
        "changed" => changed(root, count),
        "tiny" => tiny(root, count),
        "links" => names(root, count, true),
        "directory" => names(root, count, false),
        "odd" => tree::odd(root),
        _ => Err(io::Error::other("unknown kind")),
    });
    match made {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(io::stderr(), "corpus: {}: {error}", root.display()));
            ExitCode::FAILURE
        }
    }
}

/// Says how to call this.
fn usage() -> ExitCode {
    drop(writeln!(
        io::stderr(),
        "usage: corpus mails|sites|large|changed|tiny|links|directory|odd ROOT COUNT"
    ));
    ExitCode::from(2)
}

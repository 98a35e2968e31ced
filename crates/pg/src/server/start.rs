//! The line a person types to start the server of a data directory.

use std::path::{Path, PathBuf};

use super::debian::debian_cluster;

/// What the host offers, so that tests can describe another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// Whether systemd runs.
    pub systemd: bool,
    /// `/etc/postgresql`.
    pub etc_postgresql: PathBuf,
    /// Directories of systemd's unit files.
    pub unit_directories: Vec<PathBuf>,
    /// Name of the user who will type the line.
    pub user: String,
}

impl Surroundings {
    /// This host, for this user.
    pub fn of_this_host(user: &str) -> Self {
        Self {
            systemd: Path::new("/run/systemd/system").exists(),
            etc_postgresql: PathBuf::from("/etc/postgresql"),
            unit_directories: ["/etc/systemd/system", "/usr/lib/systemd/system"].map(PathBuf::from).into(),
            user: user.to_owned(),
        }
    }
}

/// The line that starts the server of `data_directory`, which belongs to `owner`, as the host is used to: by systemd or
/// `pg_ctlcluster` where one of them knows the directory, otherwise by `pg_ctl` from `bin_directory`.
pub fn start_commands(
    data_directory: &Path,
    version: u32,
    owner: &str,
    bin_directory: &Path,
    host: &Surroundings,
) -> String {
    let sudo = if host.user == "root" { "" } else { "sudo " };
    if let Some(cluster) = debian_cluster(&host.etc_postgresql, data_directory) {
        if host.systemd {
            return format!("{sudo}systemctl start {}", shell_word(&cluster.unit()));
        }
        let sudo = if host.user == owner { "" } else { sudo };
        return format!("{sudo}pg_ctlcluster {} {} start", cluster.version, shell_word(&cluster.name));
    }
    if host.systemd
        && let Some(unit) = unit_of(data_directory, version, host)
    {
        return format!("{sudo}systemctl start {}", shell_word(&unit));
    }
    let pg_ctl = shell_word(&bin_directory.join("pg_ctl").to_string_lossy());
    let data = shell_word(&data_directory.to_string_lossy());
    let log = shell_word(&data_directory.join("startup.log").to_string_lossy());
    // Root may not start it; another user needs the owner's identity.
    let who = if host.user == owner { String::new() } else { format!("sudo -u {} ", shell_word(owner)) };
    format!("{who}{pg_ctl} -D {data} -l {log} start")
}

/// A unit of PGDG's packages for Red Hat whose `PGDATA` is the directory.
fn unit_of(data_directory: &Path, version: u32, host: &Surroundings) -> Option<String> {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let wanted = real(data_directory);
    [format!("postgresql-{version}"), "postgresql".to_owned()].into_iter().find(|unit| {
        let drop_in = |directory: &PathBuf| std::fs::read_dir(directory.join(format!("{unit}.service.d")));
        let overrides =
            host.unit_directories.iter().flat_map(drop_in).flatten().flatten().map(|entry| entry.path());
        let units = host.unit_directories.iter().map(|directory| directory.join(format!("{unit}.service")));
        let pgdata = overrides.chain(units).find_map(|file| pgdata(&std::fs::read_to_string(file).ok()?));
        pgdata.is_some_and(|pgdata| real(&pgdata) == wanted)
    })
}

fn pgdata(unit: &str) -> Option<PathBuf> {
    let lines = unit.lines().filter_map(|line| line.trim().strip_prefix("Environment="));
    let value = lines.filter_map(|line| line.trim_matches('"').strip_prefix("PGDATA=")).next_back()?;
    Some(PathBuf::from(value.trim_matches('"')))
}

/// A word for a POSIX shell, quoted only when it must be.
fn shell_word(word: &str) -> String {
    let plain = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | ':' | '@' | ',' | '%')
    };
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn host(root: &Path, systemd: bool, user: &str) -> Surroundings {
        let (etc_postgresql, units) = (root.join("etc"), root.join("units"));
        Surroundings { systemd, etc_postgresql, unit_directories: vec![units], user: user.to_owned() }
    }

    #[test]
    fn the_line_fits_the_host_the_user_and_the_layout() {
        let root = tempfile::tempdir().expect("a directory");
        let root = root.path();
        fs::create_dir_all(root.join("etc/15/main")).expect("made");
        fs::write(root.join("etc/15/main/postgresql.conf"), "data_directory = '/srv/debian'\n")
            .expect("written");
        fs::create_dir_all(root.join("units")).expect("made");
        fs::write(root.join("units/postgresql-15.service"), "[Service]\nEnvironment=PGDATA=/srv/redhat/\n")
            .expect("written");
        let line = |data: &str, systemd: bool, user: &str| {
            start_commands(
                Path::new(data),
                15,
                "postgres",
                Path::new("/usr/lib/postgresql/15/bin"),
                &host(root, systemd, user),
            )
        };
        assert_eq!(line("/srv/debian", true, "root"), "systemctl start postgresql@15-main");
        assert_eq!(line("/srv/debian", true, "postgres"), "sudo systemctl start postgresql@15-main");
        assert_eq!(line("/srv/debian", false, "root"), "pg_ctlcluster 15 main start");
        assert_eq!(line("/srv/debian", false, "postgres"), "pg_ctlcluster 15 main start");
        assert_eq!(line("/srv/debian", false, "me"), "sudo pg_ctlcluster 15 main start");
        assert_eq!(line("/srv/redhat", true, "root"), "systemctl start postgresql-15");
        let plain = "/usr/lib/postgresql/15/bin/pg_ctl -D '/srv/my data' -l '/srv/my data/startup.log' start";
        assert_eq!(line("/srv/my data", true, "postgres"), plain);
        assert_eq!(line("/srv/my data", true, "root"), format!("sudo -u postgres {plain}"));
        assert_eq!(shell_word("it's"), r"'it'\''s'");
    }
}

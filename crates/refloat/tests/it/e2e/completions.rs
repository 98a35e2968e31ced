//! Ids of backups at TAB.

use std::time::Duration;

use refloat_testkit::cluster::{TestCluster, wait_until};

use super::site::Site;
use crate::cli::completions::offered;

/// Behind the source come its backups, the newest first, and the words that may stand there.
#[test]
fn backups_are_offered_behind_their_source() {
    let site = Site::new(TestCluster::builder());
    let (first, second) = (site.backup(), site.backup());
    let config = site.config.display().to_string();
    let offers = |words: &[&str]| {
        let mut all = vec!["--config", &config];
        all.extend(words);
        offered(site.cluster.owner().bare_command("bash"), &all)
    };
    assert_eq!(offers(&["restore", "pr"]), ["prod"]);
    // A repository that does not answer at once is not waited for, which a busy host can look like.
    let expected = [second.as_str(), &first, "latest"];
    let mut found = Vec::new();
    let done = wait_until(Duration::from_secs(30), || {
        found = offers(&["restore", "prod", ""]);
        found == expected
    });
    assert!(done, "{found:?} instead of {expected:?}");
    let begun = &first[..5];
    assert!(wait_until(Duration::from_secs(30), || offers(&["show", begun]) == [first.as_str()]));
    assert!(wait_until(Duration::from_secs(30), || offers(&["verify", "prod", begun]) == [first.as_str()]));
}

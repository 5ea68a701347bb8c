"""Make and check a release: package, container, the page to try, GPU reports. Not in the wheel."""

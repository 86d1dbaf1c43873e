-- Mirrors keep whom a task is assigned to, the projects' parents, and the archive: the next fetch of each account reads
-- everything, and then builds its directory of projects and sections in the new form.
UPDATE todoist_accounts SET sync_token = NULL, directory = '{}';

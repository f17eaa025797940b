"""Studies: several trainings or samplings, compared."""

"""What bitcert can be asked to do: one folder per verb."""

"""What happens when processes are killed, frozen or cut off while calls are answered, on a whole real stack."""

"""What a person reads: tables, trees and plots made from runs."""
